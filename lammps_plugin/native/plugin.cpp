// SPDX-License-Identifier: GPL-2.0-only
// (includes headers of LAMMPS; see LICENSE.GPL-2.0-note.txt. The rest of hydrapot is BSD-3-Clause.)
//
// Registers the pair style when LAMMPS loads this library: by  plugin load FILE , or from LAMMPS_PLUGIN_PATH.

#include "lammps.h"

#include <mpi.h>

#include <cstdio>
#include <cstring>

#include "pair_hydrapot.h"

using namespace LAMMPS_NS;

namespace {

// LAMMPS' plugin interface, as documented in its manual (the header lammpsplugin.h is not in the Python package).
using Factory1 = void *(void *);
using Factory2 = void *(void *, int, char **);

struct Plugin {
  const char *version;
  const char *style;
  const char *name;
  const char *info;
  const char *author;
  union {
    Factory1 *v1;
    Factory2 *v2;
  } creator;
  void *handle;
};
using Register = void (*)(Plugin *, void *);

void *create(void *lmp)
{
  return new PairHydrapot(static_cast<LAMMPS *>(lmp));
}

}    // namespace

// LAMMPS' C library interface, the same in all versions, which its classes are not.
extern "C" int lammps_version(void *);
extern "C" int lammps_extract_setting(void *, const char *);

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *registration)
{
  const bool first = lammps_extract_setting(lmp, "world_rank") <= 0;
  // Classes of LAMMPS change between versions; a plugin of another one would read the wrong members.
  const int running = lammps_version(lmp);
  if (running != HYDRAPOT_LAMMPS_DATE) {
    if (first)
      fprintf(stderr,
              "hydrapot: this pair style was built for LAMMPS %s, not for the version %d that is running; it is not loaded: "
              "run  hydrapot lammps build  for this one\n",
              HYDRAPOT_LAMMPS_VERSION, running);
    return;
  }
  if (lammps_extract_setting(lmp, "bigint") != sizeof(bigint) || lammps_extract_setting(lmp, "tagint") != sizeof(tagint) ||
      lammps_extract_setting(lmp, "imageint") != sizeof(imageint)) {
    if (first)
      fprintf(stderr,
              "hydrapot: this pair style was built for integers of another size than this LAMMPS has; it is not loaded: "
              "run  hydrapot lammps build %s\n",
              lammps_extract_setting(lmp, "tagint") == 8 ? "--bigbig" : "without  --bigbig");
    return;
  }
  // Communicators are numbers to MPICH and its relatives, and pointers to Open MPI.
#ifdef OPEN_MPI
  const bool open_mpi_built = true;
#else
  const bool open_mpi_built = false;
#endif
  char library[8192] = "";    // what the longest of them may need
  int length = 0;
  MPI_Get_library_version(library, &length);
  const bool open_mpi_runs = strstr(library, "Open MPI") != nullptr;
  if (open_mpi_built != open_mpi_runs) {
    if (first)
      fprintf(stderr,
              "hydrapot: this pair style was built with the mpi.h of %s, but %s is running; it is not loaded: "
              "run  hydrapot lammps build --mpi FOLDER  with the folder of its mpi.h\n",
              open_mpi_built ? "Open MPI" : "MPICH", open_mpi_runs ? "Open MPI" : "MPICH");
    return;
  }
  if (hydrapot_abi() != HYDRAPOT_ABI) {
    if (first)
      fprintf(stderr, "hydrapot: the engine has changed since this pair style was built; it is not loaded: "
                      "run  hydrapot lammps build  again\n");
    return;
  }
  Plugin plugin;
  plugin.version = HYDRAPOT_LAMMPS_VERSION;
  plugin.style = "pair";
  plugin.name = "hydrapot";
  plugin.info = "hydrapot, message-passing machine-learning potential";
  plugin.author = "hydrapot developers";
  plugin.creator.v1 = &create;
  plugin.handle = handle;
  reinterpret_cast<Register>(registration)(&plugin, lmp);
}
