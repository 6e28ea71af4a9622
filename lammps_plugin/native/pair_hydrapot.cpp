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

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <fstream>
#include <unordered_map>

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
  forget_model();
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

// One rank that fails ends all of them: error->one aborts the whole communicator. Errors that every rank has, because all
// read the same deck, go through error->all, which prints once.
void PairHydrapot::fail(const std::string &message)
{
  error->one(FLERR, "pair_style hydrapot: {}", message);
}

void PairHydrapot::check(int status)
{
  if (status != HYDRAPOT_OK) fail(hydrapot_last_error());
}

// For what all ranks do together: one message if all failed, and none left waiting if only some did.
void PairHydrapot::check_all(int status)
{
  int failed = status != HYDRAPOT_OK, everywhere = 0;
  MPI_Allreduce(&failed, &everywhere, 1, MPI_INT, MPI_SUM, world);
  if (everywhere == comm->nprocs) error->all(FLERR, "pair_style hydrapot: {}", hydrapot_last_error());
  check(status);
  if (everywhere) MPI_Barrier(world);    // another rank is about to end all
}

void PairHydrapot::forget_model()
{
  hydrapot_workspace_destroy(workspace);
  hydrapot_model_destroy(model);
  workspace = nullptr;
  model = nullptr;
  rows_valid = false;
}

void PairHydrapot::settings(int narg, char **arg)
{
  // A deck may name the style again with other settings; pair_coeff has to follow again.
  forget_model();
  if (allocated)
    for (int i = 1; i <= atom->ntypes; i++)
      for (int j = 1; j <= atom->ntypes; j++) setflag[i][j] = 0;
  precision = 32;
  spline = total = true;
  threads = 1;
  charge = spin = 0;
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
    const size_t colon = part.rfind(':');
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
  if (std::all_of(head_weights.begin(), head_weights.end(), [](double weight) { return weight == 0.0; }))
    error->all(FLERR, "pair_style hydrapot: the weights of the heads in '{}' are all zero", text);
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
  forget_model();
  hydrapot_source *source = nullptr;
  check_all(hydrapot_read(path.c_str(), &source));
  hydrapot_options options{};
  options.size = sizeof(options);
  options.precision = precision;
  options.knots = spline ? HYDRAPOT_KNOTS : 0;
  const int status = hydrapot_model_create(source, &options, &model);
  hydrapot_source_destroy(source);
  check_all(status);
  check_all(hydrapot_workspace_create(model, threads, &workspace));
  read_head(arg[3]);

  hydrapot_architecture architecture{};
  architecture.size = sizeof(architecture);
  check_all(hydrapot_model_architecture(model, &architecture));
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
  // A row that the engine exchanges: scalars and vectors, in its precision (hydrapot.h). LAMMPS sizes its buffers by this.
  comm_forward = std::max(2, (4 * architecture.channels * (precision / 8) + 7) / 8);
  rows_valid = false;
}

void PairHydrapot::init_style()
{
  if (!model) error->all(FLERR, "pair_style hydrapot: a pair_coeff has to name the model");
  if (strcmp(update->unit_style, "metal") != 0)
    error->all(FLERR, "pair_style hydrapot works in eV and Angstrom: use  units metal");
  if (!atom->tag_enable) error->all(FLERR, "pair_style hydrapot needs atom IDs: use  atom_modify id yes");
  if (!force->newton_pair) error->all(FLERR, "pair_style hydrapot needs  newton on");
  if (utils::strmatch(update->integrate_style, "^respa"))
    error->all(FLERR, "pair_style hydrapot has no parts of different speed: use  run_style verlet");
  if (tail_flag) error->all(FLERR, "pair_style hydrapot has no tail beyond its cutoff: use  pair_modify tail no");
  neighbor->add_request(this, NeighConst::REQ_FULL);
  // Hybrid styles ask for this width before pair_coeff has named a model, and LAMMPS sizes its buffers by theirs.
  if (force->pair) force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
  tested = false;
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
  tested = false;
}

// Settings of LAMMPS that take atoms out of lists or ghosts. Asked at the first evaluation of a run, since fixes make such
// settings when the run begins.
void PairHydrapot::test_lists()
{
  if (neighbor->exclude)
    error->all(FLERR,
               "pair_style hydrapot: excluded neighbors (neigh_modify exclude, fix gcmc) would be missing in the energy");
  if (neighbor->includegroup || atom->firstgroupname)    // without the latter LAMMPS refuses  comm_modify group
    error->all(FLERR, "pair_style hydrapot: all atoms have to be in lists and ghosts: "
                      "remove  neigh_modify include  and  atom_modify first");
  bool removed[4] = {};
  for (int k = 1; k < 4; k++) removed[k] = force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0;
  if (atom->molecular == Atom::ATOMIC || !(removed[1] || removed[2] || removed[3])) return;

  // Bonded neighbors that are missing matter if this style computes both of them.
  int missing = atom->molecular == Atom::TEMPLATE;
  for (int64_t r = 0; r < n_local && !missing; r++) {
    const int i = atom_of_row[r];
    for (int k = 1; k < 4; k++) {
      if (!removed[k]) continue;
      for (int m = k == 1 ? 0 : atom->nspecial[i][k - 2]; m < atom->nspecial[i][k - 1]; m++) {
        const int j = atom->map(atom->special[i][m]);
        if (j >= 0 && number_of_type[atom->type[j]] > 0) missing = 1;
      }
    }
  }
  int any = 0;
  MPI_Allreduce(&missing, &any, 1, MPI_INT, MPI_MAX, world);
  if (any)
    error->all(FLERR, "pair_style hydrapot: bonded neighbors would be missing from the neighbor list: "
                      "use  special_bonds lj/coul 1 1 1");
}

// Rows of the engine and their neighbors, when LAMMPS has made a new list. All images of an atom share a row, which they may,
// since the engine is given vectors: an image of an own atom needs neither communication nor a second evaluation (on a single
// process all ghosts are such), and several images of an atom of another process are evaluated once.
void PairHydrapot::make_rows()
{
  const int nlocal = atom->nlocal, nall = nlocal + atom->nghost;
  row.assign(nall, -1);
  atom_of_row.clear();
  std::unordered_map<tagint, int> row_of_tag;
  row_of_tag.reserve(nall);
  for (int i = 0; i < nall; i++) {
    if (i == nlocal) n_local = static_cast<int64_t>(atom_of_row.size());
    if (number_of_type[atom->type[i]] == 0) continue;
    const auto [found, fresh] = row_of_tag.try_emplace(atom->tag[i], static_cast<int>(atom_of_row.size()));
    row[i] = found->second;
    if (fresh) atom_of_row.push_back(i);
  }
  if (nall == nlocal) n_local = static_cast<int64_t>(atom_of_row.size());
  n_total = static_cast<int64_t>(atom_of_row.size());

  std::vector<char> listed(nlocal, 0);
  for (int ii = 0; ii < list->inum; ii++) listed[list->ilist[ii]] = 1;
  offsets.assign(1, 0);
  senders.clear();
  for (int64_t r = 0; r < n_local; r++) {
    const int i = atom_of_row[r];
    if (!listed[i]) fail("an atom is not in the neighbor list of LAMMPS");
    const int *neighbors = list->firstneigh[i];
    const int count = list->numneigh[i];
    for (int k = 0; k < count; k++) {
      const int j = row[neighbors[k] & NEIGHMASK];
      if (j >= 0) senders.push_back(j);
    }
    offsets.push_back(static_cast<int64_t>(senders.size()));
  }
  rows_valid = true;
}

// From each receiver to its senders, in the order of the rows. Ghosts are where LAMMPS has them, which computes that strain a
// system by moving all atoms (born/matrix) rely on.
void PairHydrapot::make_vectors()
{
  vectors.resize(3 * senders.size());
  double *to = vectors.data();
  double **x = atom->x;
  for (int64_t r = 0; r < n_local; r++) {
    const int i = atom_of_row[r];
    const double xi = x[i][0], yi = x[i][1], zi = x[i][2];
    const int *neighbors = list->firstneigh[i];
    const int count = list->numneigh[i];
    for (int k = 0; k < count; k++) {
      const int j = neighbors[k] & NEIGHMASK;
      if (row[j] < 0) continue;
      to[0] = x[j][0] - xi;
      to[1] = x[j][1] - yi;
      to[2] = x[j][2] - zi;
      to += 3;
    }
  }
}

// Types may change between two lists (fix atom/swap); false if other atoms than before belong to this style.
bool PairHydrapot::read_numbers()
{
  if (row.size() != static_cast<size_t>(atom->nlocal + atom->nghost)) return false;
  for (size_t i = 0; i < row.size(); i++)
    if ((number_of_type[atom->type[i]] > 0) != (row[i] >= 0)) return false;
  numbers.resize(n_total);
  for (int64_t r = 0; r < n_total; r++) numbers[r] = number_of_type[atom->type[atom_of_row[r]]];
  return true;
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
    if (r >= n_local) memcpy(exchanged + bytes_per_row * r, from, bytes_per_row);
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
// with its owners once per run: the tag and the element, which LAMMPS gave to ghosts in another way.
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
}

void PairHydrapot::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  if (!rows_valid || neighbor->ago == 0) make_rows();
  if (!read_numbers()) {
    make_rows();
    read_numbers();
  }
  if (!tested) {
    test_lists();
    test_exchange();
    tested = true;
  }

  make_vectors();

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
  input.vectors = vectors.data();
  input.exchange = comm->nprocs > 1 ? exchange : nullptr;
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
  static constexpr int row_of[6] = {0, 1, 2, 0, 0, 1}, column_of[6] = {0, 1, 2, 1, 2, 2};
  if (vflag_global)
    for (int k = 0; k < 6; k++)
      virial[k] += 0.5 * (virial_matrix[3 * row_of[k] + column_of[k]] + virial_matrix[3 * column_of[k] + row_of[k]]);
  if (vflag_atom)
    for (int64_t r = 0; r < n_total; r++) {
      const double *share = &virials[9 * r];
      for (int k = 0; k < 6; k++)
        vatom[atom_of_row[r]][k] += 0.5 * (share[3 * row_of[k] + column_of[k]] + share[3 * column_of[k] + row_of[k]]);
    }
}

double PairHydrapot::memory_usage()
{
  double bytes = Pair::memory_usage();
  if (workspace) bytes += static_cast<double>(hydrapot_workspace_bytes(workspace));
  bytes += static_cast<double>(senders.capacity() * sizeof(int32_t) + offsets.capacity() * sizeof(int64_t) +
                               numbers.capacity() * sizeof(int32_t) + (row.capacity() + atom_of_row.capacity()) * sizeof(int) +
                               (vectors.capacity() + forces.capacity() + energies.capacity() + virials.capacity()) *
                                   sizeof(double));
  return bytes;
}

void *PairHydrapot::extract(const char *name, int &dim)
{
  dim = 0;
  if (strcmp(name, "cutoff") == 0) return &cutoff;
  return nullptr;
}
