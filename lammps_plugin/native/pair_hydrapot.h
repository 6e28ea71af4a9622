// SPDX-License-Identifier: GPL-2.0-only
// (includes headers of LAMMPS; see LICENSE.GPL-2.0-note.txt. The rest of hydrapot is BSD-3-Clause.)
//
// pair_style hydrapot: the native engine of hydrapot under LAMMPS' domain decomposition.
//
//   pair_style hydrapot [precision single|double] [radial spline|exact] [threads N] [energy total|interaction]
//                       [charge Q] [spin M]
//   pair_coeff * * FILE HEAD ELEMENT ...       one element, or NULL with hybrid styles, per atom type
//
// HEAD is the name of a head, or a blend NAME:WEIGHT,NAME:WEIGHT.
#ifndef LMP_PAIR_HYDRAPOT_H
#define LMP_PAIR_HYDRAPOT_H

#include "pair.h"

#include <cstdint>
#include <string>
#include <vector>

#include "hydrapot.h"

namespace LAMMPS_NS {

class PairHydrapot : public Pair {
 public:
  PairHydrapot(class LAMMPS *);
  ~PairHydrapot() override;

  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void setup() override;
  void compute(int, int) override;
  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  double memory_usage() override;
  void *extract(const char *, int &) override;

 private:
  // Settings
  int precision = 32;
  bool spline = true;
  int threads = 1;
  bool total = true;
  int charge = 0, spin = 0;

  hydrapot_model *model = nullptr;
  hydrapot_workspace *workspace = nullptr;
  double cutoff = 0.0;
  std::vector<double> head_weights;
  std::vector<int> number_of_type;       // atomic number, 0 for NULL
  std::vector<double> reference_of_type;  // eV, of the blend

  // Rows of the engine: own atoms, then ghosts of other processes. With hybrid styles only atoms of mapped types have one;
  // `row` is -1 for the others.
  std::vector<int> row;              // (nlocal + nghost)
  std::vector<int> atom_of_row;      // (n_total)
  int64_t n_local = 0, n_total = 0;
  std::vector<int32_t> numbers;      // (n_total)
  std::vector<int64_t> offsets;      // (n_local + 1)
  std::vector<int32_t> senders;
  bool rows_valid = false;
  std::vector<double> vectors;       // (senders, 3)
  std::vector<double> forces, energies, virials;

  // What is being exchanged.
  char *exchanged = nullptr;
  size_t bytes_per_row = 0;

  void allocate();
  void read_head(const std::string &);
  void make_rows();
  void make_vectors();
  bool read_numbers();
  void forget_model();
  void test_lists();
  void test_exchange();
  void exchange_rows(void *, size_t);
  [[noreturn]] void fail(const std::string &);
  void check(int);
  void check_all(int);
  static int exchange(void *, int32_t, int32_t, void *, int64_t, int64_t, int32_t, int32_t);
  bool tested = false;    // lists and ghosts, in this run
};

}    // namespace LAMMPS_NS

#endif
