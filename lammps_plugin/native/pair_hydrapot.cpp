// SPDX-License-Identifier: GPL-2.0-only
// (includes headers of LAMMPS; see LICENSE.GPL-2.0-note.txt. The rest of hydrapot is BSD-3-Clause.)

#include "pair_hydrapot.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

#include <cmath>
#include <cstring>
#include <exception>
#include <fstream>

using namespace LAMMPS_NS;

#ifndef HYDRAPOT_WEIGHTS
#define HYDRAPOT_WEIGHTS ""
#endif

static const char *const symbols[] = {
    "",   "H",  "He", "Li", "Be", "B",  "C",  "N",  "O",  "F",  "Ne", "Na", "Mg", "Al", "Si", "P",  "S",
    "Cl", "Ar", "K",  "Ca", "Sc", "Ti", "V",  "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As",
    "Se", "Br", "Kr", "Rb", "Sr", "Y",  "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn",
    "Sb", "Te", "I",  "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho",
    "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W",  "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po",
    "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",  "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md",
    "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og"};

static int atomic_number(const std::string &symbol)
{
  for (int z = 1; z < 119; z++)
    if (symbol == symbols[z]) return z;
  return 0;
}

PairHydrapot::PairHydrapot(LAMMPS *lmp) : Pair(lmp)
{
  single_enable = 0;
  restartinfo = 0;    // the checkpoint is named again after read_restart
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
}

PairHydrapot::~PairHydrapot()
{
  if (copymode) return;
  hydrapot_workspace_destroy(workspace);
  hydrapot_model_destroy(model);
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
}

void PairHydrapot::allocate()
{
  const int n = atom->ntypes;
  memory->create(setflag, n + 1, n + 1, "pair:setflag");
  memory->create(cutsq, n + 1, n + 1, "pair:cutsq");
  for (int i = 0; i <= n; i++)
    for (int j = 0; j <= n; j++) setflag[i][j] = 0;
  map = new int[n + 1];
  allocated = 1;
}

// One rank that fails ends all of them: error->one aborts the whole communicator.
void PairHydrapot::fail(const std::string &message)
{
  error->one(FLERR, "pair_style hydrapot: {}", message);
}

void PairHydrapot::check(int status)
{
  if (status != HYDRAPOT_OK) fail(hydrapot_last_error());
}

void PairHydrapot::settings(int narg, char **arg)
{
  if (model) error->all(FLERR, "pair_style hydrapot: settings have to come before pair_coeff");
  for (int i = 0; i < narg; i += 2) {
    const std::string key = arg[i];
    if (i + 1 >= narg) error->all(FLERR, "pair_style hydrapot: {} needs a value", key);
    const std::string value = arg[i + 1];
    if (key == "precision" && (value == "single" || value == "double"))
      precision = value == "single" ? 32 : 64;
    else if (key == "radial" && (value == "spline" || value == "exact"))
      spline = value == "spline";
    else if (key == "energy" && (value == "total" || value == "interaction"))
      total = value == "total";
    else if (key == "threads")
      threads = utils::inumeric(FLERR, value, false, lmp);
    else if (key == "charge")
      charge = utils::inumeric(FLERR, value, false, lmp);
    else if (key == "spin")
      spin = utils::inumeric(FLERR, value, false, lmp);
    else
      error->all(FLERR,
                 "pair_style hydrapot: unknown '{} {}': known are precision single|double, radial spline|exact, "
                 "energy total|interaction, threads N, charge Q, spin M", key, value);
  }
  if (threads < 1) error->all(FLERR, "pair_style hydrapot: threads must be at least 1");
  if (spin < 0) error->all(FLERR, "pair_style hydrapot: spin is 2S+1, at least 1");
}

// A head, or a blend NAME:WEIGHT,NAME:WEIGHT.
void PairHydrapot::read_head(const std::string &text)
{
  head_weights.assign(hydrapot_model_heads(model), 0.0);
  size_t start = 0;
  while (start <= text.size()) {
    const size_t end = std::min(text.find(',', start), text.size());
    const std::string part = text.substr(start, end - start);
    const size_t colon = part.find(':');
    const double weight =
        colon == std::string::npos ? 1.0 : utils::numeric(FLERR, part.substr(colon + 1), false, lmp);
    const std::string name = part.substr(0, colon);
    const int head = hydrapot_model_head_index(model, name.c_str());
    if (head < 0) {
      std::string known;
      for (int h = 0; h < hydrapot_model_heads(model); h++)
        known += std::string(h ? ", " : "") + hydrapot_model_head_name(model, h);
      error->all(FLERR, "pair_style hydrapot: the model has no head '{}'; it has: {}", name, known);
    }
    head_weights[head] += weight;
    start = end + 1;
  }
}

void PairHydrapot::coeff(int narg, char **arg)
{
  if (!allocated) allocate();
  if (narg != 4 + atom->ntypes)
    error->all(FLERR,
               "pair_coeff of hydrapot: write  pair_coeff * * FILE HEAD  and one element for each of the {} atom types",
               atom->ntypes);
  map_element2type(narg - 4, arg + 4);

  std::string path = arg[2];
  if (!std::ifstream(path)) {
    const std::string shipped = std::string(HYDRAPOT_WEIGHTS) + "/" + path + ".safetensors";
    if (std::ifstream(shipped)) path = shipped;
  }
  hydrapot_workspace_destroy(workspace);
  hydrapot_model_destroy(model);
  workspace = nullptr;
  model = nullptr;
  hydrapot_source *source = nullptr;
  check(hydrapot_read(path.c_str(), &source));
  hydrapot_options options{};
  options.size = sizeof(options);
  options.precision = precision;
  options.knots = spline ? HYDRAPOT_KNOTS : 0;
  const int status = hydrapot_model_create(source, &options, &model);
  hydrapot_source_destroy(source);
  check(status);
  check(hydrapot_workspace_create(model, threads, &workspace));
  read_head(arg[3]);

  hydrapot_architecture architecture{};
  architecture.size = sizeof(architecture);
  check(hydrapot_model_architecture(model, &architecture));
  cutoff = architecture.cutoff;

  number_of_type.assign(atom->ntypes + 1, 0);
  reference_of_type.assign(atom->ntypes + 1, 0.0);
  for (int type = 1; type <= atom->ntypes; type++) {
    if (map[type] < 0) continue;
    const int number = atomic_number(elements[map[type]]);
    if (!number) error->all(FLERR, "pair_coeff of hydrapot: unknown element '{}'", elements[map[type]]);
    number_of_type[type] = number;
    for (int head = 0; head < hydrapot_model_heads(model); head++) {
      if (head_weights[head] == 0.0) continue;
      const double reference = hydrapot_model_reference(model, head, number);
      if (std::isnan(reference))
        error->all(FLERR, "pair_style hydrapot: head '{}' was not trained on {}",
                   hydrapot_model_head_name(model, head), elements[map[type]]);
      reference_of_type[type] += head_weights[head] * reference;
    }
  }
  // Upper bound of what a row is padded to, in doubles; the width in use is set for each exchange.
  const int padded = (architecture.channels + 63) / 64 * 64;
  comm_forward = (4 * padded * (precision / 8) + 7) / 8;
  rows_valid = false;
}

void PairHydrapot::init_style()
{
  if (!model) error->all(FLERR, "pair_style hydrapot: a pair_coeff has to name the model");
  if (strcmp(update->unit_style, "metal") != 0)
    error->all(FLERR, "pair_style hydrapot works in eV and Angstrom: use  units metal");
  if (!atom->tag_enable) error->all(FLERR, "pair_style hydrapot needs atom IDs: use  atom_modify id yes");
  if (!force->newton_pair) error->all(FLERR, "pair_style hydrapot needs  newton on");
  for (int k = 1; k < 4; k++)
    if (atom->molecular != Atom::ATOMIC && force->special_lj[k] == 0.0)
      error->all(FLERR,
                 "pair_style hydrapot: bonded neighbors would be missing from the neighbor list: "
                 "use  special_bonds lj/coul 1 1 1");
  if (neighbor->exclude)
    error->all(FLERR, "pair_style hydrapot: neigh_modify exclude would remove neighbors that the energy depends on");
  neighbor->add_request(this, NeighConst::REQ_FULL);
  exchange_tested = false;
  rows_valid = false;
}

double PairHydrapot::init_one(int i, int j)
{
  if (setflag[i][j] == 0) error->all(FLERR, "All pair coeffs are not set");
  return cutoff;
}

void PairHydrapot::setup()
{
  rows_valid = false;
}

// Rows of the engine and their neighbors, when LAMMPS has made a new list.
void PairHydrapot::make_rows()
{
  const int nlocal = atom->nlocal, nall = nlocal + atom->nghost;
  identity = list->inum == nlocal;
  for (int ii = 0; ii < list->inum && identity; ii++) identity = list->ilist[ii] == ii;
  for (int i = 0; i < nall && identity; i++) identity = number_of_type[atom->type[i]] > 0;

  row.assign(nall, -1);
  atom_of_row.clear();
  n_local = 0;
  for (int i = 0; i < nall; i++) {
    if (i == nlocal) n_local = static_cast<int64_t>(atom_of_row.size());
    if (number_of_type[atom->type[i]] == 0) continue;
    row[i] = static_cast<int>(atom_of_row.size());
    atom_of_row.push_back(i);
  }
  n_total = static_cast<int64_t>(atom_of_row.size());
  if (nall == nlocal) n_local = n_total;

  numbers.resize(n_total);
  for (int64_t r = 0; r < n_total; r++) numbers[r] = number_of_type[atom->type[atom_of_row[r]]];

  std::vector<int> position(nlocal, -1);    // of a local atom in the list
  for (int ii = 0; ii < list->inum; ii++) position[list->ilist[ii]] = ii;
  offsets.assign(1, 0);
  senders.clear();
  for (int64_t r = 0; r < n_local; r++) {
    const int i = atom_of_row[r];
    if (position[i] >= 0) {
      const int *neighbors = list->firstneigh[i];
      const int count = list->numneigh[i];
      for (int k = 0; k < count; k++) {
        const int j = row[neighbors[k] & NEIGHMASK];
        if (j >= 0) senders.push_back(j);
      }
    }
    offsets.push_back(static_cast<int64_t>(senders.size()));
  }
  rows_valid = true;
}

int PairHydrapot::pack_forward_comm(int n, int *sent, double *buf, int /*pbc_flag*/, int * /*pbc*/)
{
  char *to = reinterpret_cast<char *>(buf);
  const size_t stride = sizeof(double) * comm_forward;
  for (int k = 0; k < n; k++) {
    const int r = row[sent[k]];
    if (r >= 0)
      memcpy(to, exchanged + bytes_per_row * r, bytes_per_row);
    else
      memset(to, 0, stride);    // an atom of another style: nobody reads it
    to += stride;
  }
  return n * comm_forward;
}

void PairHydrapot::unpack_forward_comm(int n, int first, double *buf)
{
  const char *from = reinterpret_cast<const char *>(buf);
  const size_t stride = sizeof(double) * comm_forward;
  for (int k = 0; k < n; k++) {
    const int r = row[first + k];
    if (r >= 0) memcpy(exchanged + bytes_per_row * r, from, bytes_per_row);
    from += stride;
  }
}

// Bytes are copied as they are, never converted: two floats travel in one double.
void PairHydrapot::exchange_rows(void *rows, size_t bytes)
{
  const int largest = comm_forward;
  exchanged = static_cast<char *>(rows);
  bytes_per_row = bytes;
  comm_forward = static_cast<int>((bytes + sizeof(double) - 1) / sizeof(double));
  if (comm_forward > largest) fail("a row is wider than LAMMPS was told (a defect of hydrapot)");
  comm->forward_comm(this);
  comm_forward = largest;
  exchanged = nullptr;
}

int PairHydrapot::exchange(void *context, int32_t, int32_t, void *rows, int64_t, int64_t, int32_t width, int32_t item)
{
  static_cast<PairHydrapot *>(context)->exchange_rows(rows, static_cast<size_t>(width) * item);
  return 0;
}

// Features that are not exchanged give a trajectory that is stable and wrong. So what arrives in the ghosts is compared
// with its owners once per run: the tag and the position, which for a ghost has to be that of the owner's image.
void PairHydrapot::test_exchange()
{
  std::vector<double> rows(2 * n_total, -1.0);
  for (int64_t r = 0; r < n_local; r++) {
    rows[2 * r] = static_cast<double>(atom->tag[atom_of_row[r]]);
    rows[2 * r + 1] = numbers[r] + 0.25;
  }
  exchange_rows(rows.data(), 2 * sizeof(double));
  bigint wrong = 0, all = 0;
  for (int64_t r = n_local; r < n_total; r++)
    if (rows[2 * r] != static_cast<double>(atom->tag[atom_of_row[r]]) || rows[2 * r + 1] != numbers[r] + 0.25) wrong++;
  MPI_Allreduce(&wrong, &all, 1, MPI_LMP_BIGINT, MPI_SUM, world);
  if (all)
    error->all(FLERR,
               "pair_style hydrapot: this LAMMPS does not carry features to {} ghost atoms; results would be wrong: "
               "use another version", all);
  exchange_tested = true;
}

void PairHydrapot::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  if (!rows_valid || neighbor->ago == 0) make_rows();
  if (!exchange_tested) test_exchange();

  double *x = nullptr;
  if (identity) {
    x = n_total ? atom->x[0] : nullptr;
  } else {
    positions.resize(3 * n_total);
    for (int64_t r = 0; r < n_total; r++) memcpy(&positions[3 * r], atom->x[atom_of_row[r]], 3 * sizeof(double));
    x = positions.data();
  }

  hydrapot_input input{};
  input.size = sizeof(input);
  input.n_local = n_local;
  input.n_total = n_total;
  input.n_structures = 1;
  input.numbers = numbers.data();
  input.charge = &charge;
  input.spin = &spin;
  input.head_weights = head_weights.data();
  input.offsets = offsets.data();
  input.senders = senders.data();
  input.positions = x;
  input.exchange = exchange;
  input.exchange_context = this;
  input.check = 1;

  double energy = 0.0, virial_matrix[9] = {};
  forces.assign(3 * n_total, 0.0);
  hydrapot_output output{};
  output.size = sizeof(output);
  output.energy = &energy;
  output.forces = forces.data();
  if (vflag_global) output.virial = virial_matrix;
  if (eflag_atom) {
    energies.assign(n_local, 0.0);
    output.energies = energies.data();
  }
  if (vflag_atom) {
    virials.assign(9 * n_total, 0.0);
    output.virials = virials.data();
  }
  check(hydrapot_evaluate(model, workspace, &input, &output));

  double **f = atom->f;
  for (int64_t r = 0; r < n_total; r++) {
    double *target = f[atom_of_row[r]];
    for (int k = 0; k < 3; k++) target[k] += forces[3 * r + k];
  }
  if (eflag_global) {
    eng_vdwl += energy;
    if (total)
      for (int64_t r = 0; r < n_local; r++) eng_vdwl += reference_of_type[atom->type[atom_of_row[r]]];
  }
  if (eflag_atom)
    for (int64_t r = 0; r < n_local; r++) {
      const int i = atom_of_row[r];
      eatom[i] += energies[r] + (total ? reference_of_type[atom->type[i]] : 0.0);
    }
  // LAMMPS: xx, yy, zz, xy, xz, yz
  static constexpr int first[6] = {0, 1, 2, 0, 0, 1}, second[6] = {0, 1, 2, 1, 2, 2};
  if (vflag_global)
    for (int k = 0; k < 6; k++)
      virial[k] += 0.5 * (virial_matrix[3 * first[k] + second[k]] + virial_matrix[3 * second[k] + first[k]]);
  if (vflag_atom)
    for (int64_t r = 0; r < n_total; r++) {
      const double *share = &virials[9 * r];
      for (int k = 0; k < 6; k++)
        vatom[atom_of_row[r]][k] += 0.5 * (share[3 * first[k] + second[k]] + share[3 * second[k] + first[k]]);
    }
}

double PairHydrapot::memory_usage()
{
  double bytes = Pair::memory_usage();
  if (workspace) bytes += static_cast<double>(hydrapot_workspace_bytes(workspace));
  bytes += static_cast<double>(senders.capacity() * sizeof(int32_t) + offsets.capacity() * sizeof(int64_t) +
                               numbers.capacity() * sizeof(int32_t) + (row.capacity() + atom_of_row.capacity()) * sizeof(int) +
                               (positions.capacity() + forces.capacity() + energies.capacity() + virials.capacity()) *
                                   sizeof(double));
  return bytes;
}

void *PairHydrapot::extract(const char *name, int &dim)
{
  dim = 0;
  if (strcmp(name, "cutoff") == 0) return &cutoff;
  return nullptr;
}
