"""TorchSim model: energies, forces and stresses of many systems at once, for its relaxations and molecular dynamics.

    import torch_sim as ts
    from hydrapot.calculators.torch_sim import HydrapotModel

    model = HydrapotModel("hydrapot-s", head="polymlp_MgO")
    relaxed = ts.optimize(model.state(structures), model, optimizer=ts.optimizers.fire, …)

TorchSim (Cohen, Riebesell, Goodall et al., 2025) keeps all systems in one state of concatenated tensors, with lattice
vectors in columns; units are eV and Å as here.
"""

import copy
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from ase import Atoms
from torch import Tensor

from hydrapot.calculators.batch_lists import BatchLists
from hydrapot.calculators.batch_native import BatchResults, NativeBatch
from hydrapot.calculators.batch_torch import TorchBatch
from hydrapot.calculators.native import choose_native
from hydrapot.calculators.threads import torch_threads
from hydrapot.calculators.torch_sim_state import Systems, periodicity, read
from hydrapot.potential.coverage import structure_warnings
from hydrapot.potential.errors import ConfigurationError, HydrapotError
from hydrapot.potential.graph import charge_and_spin
from hydrapot.potential.load import load
from hydrapot.potential.metadata import HeadInfo
from hydrapot.potential.model import Potential

try:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`torch.jit.script` is deprecated", DeprecationWarning
        )  # used by TorchSim 0.3
        import torch_sim as ts
        from torch_sim.models.interface import ModelInterface
except ImportError as error:  # pragma: no cover - where the extra is not installed
    raise ImportError(f"TorchSim cannot be imported ({error}): pip install 'hydrapot[torchsim]'") from error

#: Å. As for the ASE calculator.
DEFAULT_SKIN = 0.5

_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
_NAMES = {dtype: name for name, dtype in _PRECISIONS.items()}
#: From TorchSim 0.5 on, states hold tensors of their users, with a value for each system.
_VERSION = version("torch-sim-atomistic")
_CARRIES_EXTRAS = hasattr(ts.SimState, "system_extras")


class HydrapotModel(ModelInterface):  # type: ignore[misc]  # TorchSim has no type information
    """A potential as a model of TorchSim.

    ``energy`` holds reference energies, as in the ASE calculator; ``stress`` is ∂E/∂ε / V (positive: tension) and NaN
    for systems that are not periodic in all three directions.

    On the CPU, the result of a system has the same bits whatever else is in the batch (native engine); elsewhere it is
    the same to rounding of `precision`.

    Parameters
    ----------
    model
        Name of a shipped model, path of a checkpoint, or a :class:`~hydrapot.potential.Potential` (which is copied).
    head
        Name of the head of all systems for which the state does not say otherwise; may be left out only if the model has
        a single one.
    charge, spin
        Total charge (e) and multiplicity 2S+1 (None: not stated) of the same systems.
    device
        Where states are, e.g. ``"cpu"`` or ``"cuda"``.
    dtype
        Of the states and the results: ``torch.float64`` or ``torch.float32``.
    precision
        Of the network, ``"float32"`` or ``"float64"``; that of `dtype` for None. Geometry and sums are float64 in either
        case. ``"float32"`` with states in float64 costs what float32 does and does not round positions and energies.
    compute_forces, compute_stress
        What is evaluated beside the energies; both may be set later.
    per_atom_energies
        Return ``energies`` ``(N,)``, too.
    retain_graph
        Results are functions of the state's positions and cell that torch can differentiate; it takes the torch path. May
        be set later.
    backend
        ``"native"``: the compiled engine, on a CPU. ``"torch"``. ``"auto"``: the native engine where it is built and runs
        on `device`.
    skin
        Å; neighbors are searched up to this much beyond the cutoff, and again only for systems whose atoms or cell have
        moved so far that one could be missed. It changes the cost, never the result.
    threads
        Threads on the CPU; None takes the number that torch is set to.

    Raises
    ------
    UnknownHeadError, UnsupportedChargeError, CheckpointError, ConfigurationError
        When made; and in use InvalidStructureError, UnknownElementError, UnsupportedChargeError for structures that the
        head has no answer for, with the number of the system.
    """

    def __init__(
        self,
        model: str | Path | Potential,
        *,
        head: str | None = None,
        charge: int = 0,
        spin: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        precision: Literal["float32", "float64"] | None = None,
        compute_forces: bool = True,
        compute_stress: bool = True,
        per_atom_energies: bool = False,
        retain_graph: bool = False,
        backend: Literal["auto", "native", "torch"] = "auto",
        skin: float = DEFAULT_SKIN,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        if dtype not in _NAMES:
            raise ConfigurationError(f"dtype {dtype} is not supported: choose torch.float32 or torch.float64")
        precision = _NAMES[dtype] if precision is None else precision  # type: ignore[assignment]
        if precision not in _PRECISIONS:
            raise ConfigurationError(f"precision {precision!r} is not supported: choose float32 or float64")
        if threads is not None and threads < 1:
            raise ConfigurationError(f"threads must be at least 1, not {threads}")
        if retain_graph and backend == "native":
            raise ConfigurationError("the native backend keeps no graph to differentiate: use backend='torch'")
        self._device = torch.device(device)
        self._dtype = dtype
        self._compute_forces = compute_forces
        self._compute_stress = compute_stress
        self._memory_scales_with = "n_atoms_x_density"
        self.retain_graph = retain_graph
        self.per_atom_energies = per_atom_energies
        self.precision = precision
        self.threads = threads
        native = choose_native(backend, device=self._device.type, compile=False)
        # Not as a submodule: `.to()` must not change the precision or the device of one of the two paths.
        self._torch = TorchBatch(_prepare(model, device=self._device, dtype=_PRECISIONS[precision]))
        self._native = NativeBatch(self.potential, precision=precision) if native else None
        self._systems = Systems(self.potential.heads, head=self.potential.check_head(head), charge=charge, spin=spin)
        self._lists = BatchLists(cutoff=self.potential.cutoff, skin=skin, device=self._device)
        self._supported: set[tuple[Any, ...]] = set()
        self._warned: set[str] = set()

    @property
    def potential(self) -> Potential:
        """The potential, in the precision of the network."""
        return self._torch.potential

    @property
    def backend(self) -> Literal["native", "torch"]:
        """What evaluates."""
        return "native" if self._native is not None and not self.retain_graph else "torch"

    @property
    def head(self) -> str:
        """Head of the systems for which the state does not say otherwise."""
        return self._systems.head

    @property
    def head_info(self) -> HeadInfo:
        """What the head was trained on: level of theory, elements, validation errors, …"""
        return self.potential.info.heads[self.head]

    @property
    def searches(self) -> int:
        """Neighbor searches so far, counted by systems."""
        return self._lists.searches

    @property
    def compute_forces(self) -> bool:
        """Whether forces are evaluated."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, compute_forces: bool) -> None:
        self._compute_forces = compute_forces

    @property
    def compute_stress(self) -> bool:
        """Whether stresses are evaluated."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, compute_stress: bool) -> None:
        self._compute_stress = compute_stress

    def state(self, structures: Atoms | Sequence[Atoms], *, heads: Sequence[str] | None = None) -> Any:
        """A ``SimState`` of structures, in which nothing is lost that the energy depends on.

        TorchSim's own conversion drops charge and spin, and TorchSim 0.3 takes a slab for a molecule.

        Parameters
        ----------
        structures
            Charge and spin are taken from ``atoms.info["charge"]`` and ``["spin"]``; without them, the model's apply.
        heads
            One for each structure; the model's for None.

        Raises
        ------
        ConfigurationError
            The installed TorchSim cannot carry what the structures say.
        """
        atoms = [structures] if isinstance(structures, Atoms) else list(structures)
        if not atoms:
            raise ConfigurationError("there are no structures to make a state of")
        default = self._systems
        asked = []
        for k, one in enumerate(atoms):
            stated = "charge" in one.info or "spin" in one.info
            charge, spin = charge_and_spin(one) if stated else (default.charge, default.spin)
            asked.append((default.head if heads is None else self.potential.check_head(heads[k]), charge, spin))
        state = ts.io.atoms_to_state(atoms, self.device, self.dtype)
        for k, (one, pbc) in enumerate(zip(atoms, periodicity(state, len(atoms)), strict=True)):
            if (one.pbc != pbc).any():
                raise ConfigurationError(
                    f"structure {k} has pbc {one.pbc.tolist()}, which TorchSim {_VERSION} would take for {pbc.tolist()}:"
                    " batch structures of one periodicity, and make a slab periodic with more vacuum than the cutoff of"
                    f" {self.potential.cutoff:g} Å"
                )
        own = (default.head, default.charge, default.spin)
        differing = [k for k, one in enumerate(asked) if one != own]
        if not differing:
            return state
        if not _CARRIES_EXTRAS:
            k = differing[0]
            raise ConfigurationError(
                f"structure {k} has (head, charge, spin) {asked[k]}, the model {own}, and TorchSim {_VERSION} "
                "carries none of them through a run: make a model for each combination"
            )
        columns = {  # pragma: no cover - TorchSim 0.5, which needs Python 3.12
            "head": [self.potential.heads.index(head) for head, _, _ in asked],
            "charge": [charge for _, charge, _ in asked],
            "spin": [0 if spin is None else spin for _, _, spin in asked],
        }
        for name, values in columns.items():  # pragma: no cover
            state.system_extras[name] = torch.tensor(values, device=self.device)
        return state  # pragma: no cover

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Evaluate all systems of a state.

        Parameters
        ----------
        state
            A ``SimState`` or a dictionary of its tensors. Tensors ``head`` (index in ``potential.heads``), ``charge`` and
            ``spin`` (0: not stated) of length ``G`` override the model's own.

        Returns
        -------
        dict
            ``energy`` ``(G,)`` eV, ``forces`` ``(N, 3)`` eV/Å, ``stress`` ``(G, 3, 3)`` eV/Å³, ``energies`` ``(N,)`` eV.
        """
        positions, cell = read(state, "positions"), read(state, "cell")
        if positions.device.type != self._device.type:
            raise ConfigurationError(f"the state is on {positions.device}, the model on {self._device}")
        cell = cell if cell.ndim == 3 else cell[None]
        x, cells = positions.to(torch.float64), cell.mT.to(torch.float64)
        changed = self._systems.update(state, n_atoms=len(x), n_systems=len(cells))
        try:
            if self._lists.update(self._systems.kinds, x, cells, changed=changed):
                self._check()
        except HydrapotError:
            self._systems.forget()  # what was refused stays refused when asked again
            raise
        return self._named(self._evaluate(x, cells))

    def _evaluate(self, x: Tensor, cells: Tensor) -> BatchResults:
        threads = torch.get_num_threads() if self.threads is None else self.threads
        if self.retain_graph:
            if not (x.requires_grad or cells.requires_grad):
                x = x.detach().clone().requires_grad_()
            with torch_threads(threads):
                return self._torch.evaluate(self._lists, self._systems.heads, x, cells, differentiable=True)
        x, cells = x.detach(), cells.detach()
        if self._native is not None:
            return self._native.evaluate(
                self._lists,
                self._systems.heads,
                x,
                cells,
                threads=threads,
                forces=self._compute_forces,
                stress=self._compute_stress,
            )
        with torch_threads(threads):
            return self._torch.evaluate(self._lists, self._systems.heads, x, cells)

    def _named(self, results: BatchResults) -> dict[str, Tensor]:
        named: dict[str, Tensor | None] = {
            "energy": results.energy,
            "forces": results.forces if self._compute_forces else None,
            "stress": results.stress if self._compute_stress else None,
            "energies": results.energies if self.per_atom_energies else None,
        }
        return {name: tensor.to(self._dtype) for name, tensor in named.items() if tensor is not None}

    def _check(self) -> None:
        """Raise for what a head was not trained on; warn, once, of reasons for doubt."""
        for k, (found, head) in enumerate(zip(self._lists.lists, self._systems.heads, strict=True)):
            key = (head, found.numbers.tobytes(), found.pbc.tobytes(), found.charge, found.spin)
            if key in self._supported:
                continue
            try:
                self.potential.check_supported(found.graph, head=head)
            except HydrapotError as error:
                raise type(error)(f"system {k}: {error}") from None
            self._supported.add(key)
            atoms = Atoms(found.numbers, found.positions, cell=found.cell, pbc=found.pbc)
            atoms.info = {"charge": found.charge} | ({} if found.spin is None else {"spin": found.spin})
            for line in structure_warnings(self.potential, atoms, head=head):
                if line not in self._warned:
                    self._warned.add(line)
                    warnings.warn(line, stacklevel=2)


def _prepare(model: str | Path | Potential, *, device: torch.device, dtype: torch.dtype) -> Potential:
    if isinstance(model, Potential):
        return copy.deepcopy(model).to(device=device, dtype=dtype).eval().requires_grad_(requires_grad=False)
    return load(model, device=str(device), dtype=dtype)
