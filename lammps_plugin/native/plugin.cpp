// SPDX-License-Identifier: GPL-2.0-only
// (includes headers of LAMMPS; see LICENSE.GPL-2.0-note.txt. The rest of hydrapot is BSD-3-Clause.)
//
// Registers the pair style when LAMMPS loads this library: by  plugin load FILE , or from LAMMPS_PLUGIN_PATH.

#include "lammps.h"

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

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *registration)
{
  const char *running = static_cast<LAMMPS *>(lmp)->version;
  // Classes of LAMMPS change between versions; a plugin of another one would read the wrong members.
  if (strcmp(running, HYDRAPOT_LAMMPS_VERSION) != 0) {
    fprintf(stderr,
            "hydrapot: this pair style was built for LAMMPS %s, not for %s; it is not loaded: "
            "run  hydrapot lammps build  again\n",
            HYDRAPOT_LAMMPS_VERSION, running);
    return;
  }
  Plugin plugin;
  plugin.version = running;
  plugin.style = "pair";
  plugin.name = "hydrapot";
  plugin.info = "hydrapot, message-passing machine-learning potential";
  plugin.author = "hydrapot developers";
  plugin.creator.v1 = &create;
  plugin.handle = handle;
  reinterpret_cast<Register>(registration)(&plugin, lmp);
}
