"""ASE calculator: energy, forces and stress of one head of a potential, for molecular dynamics and
relaxation.
"""

import copy
import logging
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from hydrapot.calculators.compiled import compiled_network
from hydrapot.calculators.native import NativeBackend, choose_native
from hydrapot.calculators.threads import torch_threads
from hydrapot.calculators.verlet import Pairs, VerletList
from hydrapot.potential.coverage import structure_warnings
from hydrapot.potential.errors import ConfigurationError, InvalidStructureError, SimulationError
from hydrapot.potential.evaluate import NetworkEnergies, evaluate
from hydrapot.potential.graph import Graph, charge_and_spin
from hydrapot.potential.load import load
from hydrapot.potential.metadata import HeadInfo
from hydrapot.potential.model import Potential

logger = logging.getLogger(__name__)

#: Å. Measured on 32–256 atoms of Cu (docstring of the class); flat between 0.3 and 0.8.
DEFAULT_SKIN = 0.5

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class HydrapotCalculator(Calculator):
    """Calculator of one head of a potential.

    Total charge (e) and spin multiplicity 2S+1 are taken from ``atoms.info["charge"]`` and ``["spin"]``.
    Besides the properties of ASE, ``results`` holds ``reference_energy`` and ``interaction_energy`` (eV;
    their sum is ``energy``) and ``energy_determined``: whether the training data fix the zero of the energy
    at this composition.

    Parameters
    ----------
    model
        Name of a shipped model, path of a checkpoint, or a :class:`~hydrapot.potential.Potential` (which is
        copied).
    head
        Name of the head; may be left out only if the model has a single one. Each head is a level of theory
        of its own.
    device
        Where the network runs, e.g. ``"cpu"`` or ``"cuda"``.
    dtype
        Precision of the network; geometry, reference energies and sums are float64 in either case.
        ``"float64"`` for energy conservation over long runs, finite differences and tight relaxations.
    compile
        Compile the network at the first step (about a minute, once per process and architecture); for GPUs, and for
        CPUs without the native engine.
    backend
        ``"native"``: the compiled engine of this package, on a CPU. ``"torch"``: the network in torch. ``"auto"``: the
        native engine where it is built, unless another device or `compile` is asked for. In float64 both agree to
        rounding; in float32 the native engine differs by less than the rounding of float32.
    skin
        Å; neighbors are searched up to this much beyond the cutoff and searched again only when atoms or cell
        have moved so far that one could be missed. It changes the cost, never the result.
    threads
        Threads on the CPU; None takes the number that torch is set to. Results are reproducible to the last bit
        for a fixed number.

    Raises
    ------
    UnknownHeadError, CheckpointError, ConfigurationError
        When made; and in use InvalidStructureError, UnknownElementError, UnsupportedChargeError for
        structures that the head has no answer for.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(
        self,
        model: str | Path | Potential,
        *,
        head: str | None = None,
        device: str = "cpu",
        dtype: Literal["float32", "float64"] = "float32",
        compile: bool = False,  # noqa: A002 - the word that torch and other calculators use
        backend: Literal["auto", "native", "torch"] = "auto",
        skin: float = DEFAULT_SKIN,
        threads: int | None = None,
    ) -> None:
        self._previous: Atoms | None = None
        super().__init__()  # type: ignore[no-untyped-call]
        if dtype not in _DTYPES:
            raise ConfigurationError(f"dtype {dtype!r} is not supported: choose float32 or float64")
        if threads is not None and threads < 1:
            raise ConfigurationError(f"threads must be at least 1, not {threads}")
        native = choose_native(backend, device=device, compile=compile)
        self.potential = _prepare(model, device=device, dtype=_DTYPES[dtype])
        self.head = self.potential.check_head(head)
        self.dtype = dtype
        self.device = device
        self.threads = threads
        self._network: NetworkEnergies | None = None
        self._supported = False
        self._network_checked = not compile
        if compile:
            self._network = compiled_network(self.potential, head=self.head)
        self._native: NativeBackend | None = None
        if native:
            self._native = NativeBackend(self.potential, head=self.head, dtype=dtype)
        self._list = VerletList(cutoff=self.potential.cutoff, skin=skin, device=device)
        self._charge_spin: tuple[int, int | None] = (0, None)
        self._determined = True
        self._warned: set[str] = set()
        self._pairs: Pairs | None = None

    @property
    def backend(self) -> Literal["native", "torch"]:
        """What evaluates."""
        return "native" if self._native is not None and self._network is None else "torch"

    @property
    def graph(self) -> Graph | None:
        """Graph of the latest evaluation: what analyses need of the neighbors without a search of their own."""
        return None if self._pairs is None else self._list.compress(self._pairs)

    @property
    def head_info(self) -> HeadInfo:
        """What the head was trained on: level of theory, elements, validation errors, …"""
        return self.potential.info.heads[self.head]

    @property
    def searches(self) -> int:
        """Neighbor searches so far."""
        return self._list.searches

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:  # noqa: ARG002 - signature of ASE
        """What changed since the last evaluation, compared exactly; charge and spin count as well.

        Everything is computed anew when anything did, so moved atoms alone are reported without a look at the rest.
        """
        old = self.atoms
        if old is None:
            return list(all_changes)
        if _differ(old.arrays["positions"], atoms.arrays["positions"]):
            return ["positions"]
        changes = ["numbers"] if _differ(old.arrays["numbers"], atoms.arrays["numbers"]) else []
        if _differ(old.cell.array, atoms.cell.array):
            changes.append("cell")
        if _differ(old.pbc, atoms.pbc):
            changes.append("pbc")
        if self._charge_spin != charge_and_spin(atoms):
            changes.append("charge")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),  # noqa: ARG002 - signature of ASE
    ) -> None:
        """Evaluate energy, forces and, in three-dimensional periodicity, stress; called by ASE."""
        atoms = self._remember(atoms)
        if "stress" in properties and not atoms.pbc.all():
            raise PropertyNotImplementedError(
                "stress is defined only for cells that are periodic in all three directions; "
                f"this structure has pbc {atoms.pbc.tolist()}"
            )
        self.results = {}
        charge, spin = charge_and_spin(atoms)
        self._pairs = None
        pairs, searched = self._list.pairs(
            atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, charge=charge, spin=spin
        )
        if searched or not self._supported:  # elements, charge and spin cannot have changed otherwise
            self._supported = False  # until the check has passed: a refused structure stays refused when asked again
            self.potential.check_supported(pairs.candidates.graph, head=self.head)
            self._supported = True
            self._warn(atoms)
        if self.backend == "native":
            results = self._run_native(pairs)
        else:
            with self.threads_set():
                results = self._run_torch(self._list.compress(pairs), periodic=bool(atoms.pbc.all()))
        self._pairs = pairs
        self._charge_spin = (charge, spin)
        self.results = {**results, "free_energy": results["energy"], "energy_determined": self._determined}

    def reset(self) -> None:
        """Forget the results; the copy of the structure is kept for :meth:`_remember`."""
        self._previous, self.atoms = self.atoms if self.atoms is not None else self._previous, None
        self.results = {}

    def _remember(self, atoms: Atoms | None) -> Atoms:
        """Keep a copy of the structure, which later calls compare with; the last one is filled anew where it fits.

        `Atoms.copy` takes as long as the forces of a small molecule.
        """
        if atoms is None:
            atoms = cast(Atoms, self.atoms)
        kept, self.atoms = self.atoms if self.atoms is not None else self._previous, None
        if (
            kept is None
            or kept is atoms
            or _differ(kept.arrays["numbers"], atoms.arrays["numbers"])
            or _differ(kept.pbc, atoms.pbc)
        ):
            kept = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        else:
            kept.arrays["positions"][...] = atoms.arrays["positions"]
            kept.cell.array[...] = atoms.cell.array
        kept.info = {key: atoms.info[key] for key in ("charge", "spin") if key in atoms.info}
        self.atoms, self._previous = kept, kept
        return kept

    def _run_native(self, pairs: Pairs) -> dict[str, Any]:
        assert self._native is not None  # noqa: S101
        try:
            return self._native.evaluate(pairs, threads=self.threads or torch.get_num_threads())
        except InvalidStructureError:
            self._list.compress(pairs)  # coincident atoms, by name
            raise

    def _run_torch(self, graph: Graph, *, periodic: bool) -> dict[str, Any]:
        if not self._network_checked:
            self._check_network(graph)
        prediction = evaluate(self.potential, graph, head=self.head, network=self._network, check=False)
        results = {
            "energy": float(prediction.energy[0]),
            "energies": prediction.energies.cpu().numpy(),
            "forces": prediction.forces.cpu().numpy(),
            "reference_energy": float(prediction.reference_energy[0]),
            "interaction_energy": float(prediction.interaction_energy[0]),
        }
        if periodic:
            results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].cpu().numpy())
        return results

    def threads_set(self) -> AbstractContextManager[None]:
        """A block in which torch uses the calculator's number of threads."""
        return torch_threads(self.threads)

    def export_properties(self) -> Properties:
        """The results that ASE has a name for."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def todict(self, skip_default: bool = True) -> dict[str, Any]:  # noqa: ARG002 - signature of ASE
        """What ASE stores beside results, e.g. in a trajectory."""
        return {
            "head": self.head,
            "dtype": self.dtype,
            "backend": self.backend,
            "model": self.potential.info.content_hash,
        }

    def _warn(self, atoms: Atoms) -> None:
        self._determined = self.potential.references[self.head].determined(atoms.numbers)
        for line in structure_warnings(self.potential, atoms, head=self.head):
            if line not in self._warned:
                self._warned.add(line)
                warnings.warn(line, stacklevel=2)

    def _check_network(self, graph: Graph) -> None:
        """Compare compiled and eager energies once: a miscompiled network would run on, stable but wrong."""
        assert self._network is not None  # noqa: S101
        with torch.no_grad():
            reference = self.potential.network_energies(graph, head=self.head)
        with torch.enable_grad():
            leaf = graph.edge_vectors.detach().requires_grad_()
            compiled = self._network(graph.with_edge_vectors(leaf)).detach()
        scale = max(1.0, float(reference.abs().max())) if len(reference) else 1.0
        error = float((compiled - reference).abs().max()) if len(reference) else 0.0
        if not error <= (1e-3 if self.dtype == "float32" else 1e-8) * scale:
            raise SimulationError(
                f"the compiled network differs from the eager one by {error:.1e} eV on an atom: use compile=False"
            )
        self._network_checked = True


def _differ(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Not equal, at a third of the cost of `numpy.array_equal`; NaN differs from itself."""
    return a.shape != b.shape or bool((a != b).any())


def _prepare(model: str | Path | Potential, *, device: str, dtype: torch.dtype) -> Potential:
    if isinstance(model, Potential):
        return copy.deepcopy(model).to(device=device, dtype=dtype).eval().requires_grad_(requires_grad=False)
    return load(model, device=device, dtype=dtype)
