"""Evaluation by the native engine: arrays or graphs in, energies, forces and virials out."""

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hydrapot.potential.derivatives import volumes
from hydrapot.potential.errors import ConfigurationError, UnknownHeadError
from hydrapot.potential.evaluate import Prediction
from hydrapot.potential.graph import Graph
from hydrapot.potential.native.library import Exchange, Input, Output, check, library
from hydrapot.potential.native.model import NativeModel

#: A head by name, several with their weights (E = Σ weight · energy of the head), or one of either per structure.
Heads = str | Mapping[str, float] | Sequence[str | Mapping[str, float]]

#: Called with (stage, layer, rows): ``(n_total, 4·channels)``, of which the first n_local are filled and the others have
#: to be copied from their owners. stage is ``"features"`` or ``"gradients"``.
ExchangeFunction = Callable[[str, int, NDArray[Any]], None]

_CHECK_SUPPORT, _CHECK_FULL = 1, 2


@dataclass(frozen=True)
class NativeResult:
    """Results for ``N`` local atoms (``M`` with ghosts) in ``G`` structures, float64.

    Attributes
    ----------
    energy
        ``(G,)`` eV, interaction: without reference energies.
    energies
        ``(N,)`` eV per atom, interaction.
    forces
        ``(M, 3)`` eV/Å; None if not asked for. Rows of ghosts belong to their owners.
    virial
        ``(G, 3, 3)`` eV, −∂E/∂ε, symmetrized; None if not asked for.
    virials
        ``(M, 3, 3)`` eV, each receiver's share, not symmetric; None unless asked for.
    features
        ``(N, F)`` node features; None unless asked for.
    """

    energy: NDArray[np.float64]
    energies: NDArray[np.float64]
    forces: NDArray[np.float64] | None
    virial: NDArray[np.float64] | None
    virials: NDArray[np.float64] | None
    features: NDArray[np.float64] | None


class NativeEngine:
    """Memory and threads for one evaluation at a time; a thread of the caller that evaluates by itself has its own.

    Parameters
    ----------
    model
        Shared by any number of engines.
    threads
        Threads of an evaluation, the caller's among them. They belong to the engine and have nothing to do with those of
        torch or OpenMP. Results are the same to the last bit for the same number.
    """

    def __init__(self, model: NativeModel, *, threads: int = 1) -> None:
        self._handle = ctypes.c_void_p()
        self.model = model
        self.threads = threads
        check(library().hydrapot_workspace_create(model.handle, threads, ctypes.byref(self._handle)))
        weakref.finalize(self, library().hydrapot_workspace_destroy, self._handle)

    @property
    def handle(self) -> ctypes.c_void_p:
        """The workspace of the library."""
        return self._handle

    @property
    def bytes(self) -> int:
        """Memory that the engine holds."""
        size: int = library().hydrapot_workspace_bytes(self._handle)
        return size

    def evaluate_arrays(
        self,
        numbers: ArrayLike,
        offsets: ArrayLike,
        senders: ArrayLike,
        vectors: ArrayLike | None = None,
        *,
        heads: Heads,
        positions: ArrayLike | None = None,
        shifts: ArrayLike | None = None,
        cells: ArrayLike | None = None,
        structure_offsets: ArrayLike | None = None,
        charge: ArrayLike | None = None,
        spin: ArrayLike | None = None,
        exchange: ExchangeFunction | None = None,
        forces: bool = True,
        virials: bool = False,
        features: bool = False,
        check_support: bool = True,
        check_full: bool = False,
    ) -> NativeResult:
        """Evaluate structures given as arrays; those of the right type and order are used in place.

        Parameters
        ----------
        numbers
            int32 ``(M,)`` atomic numbers, local atoms first, then ghosts.
        offsets, senders
            int64 ``(N + 1,)``, int32 or int64 ``(E,)``: the edges of receiver i are ``offsets[i] … offsets[i+1]``.
            Every pair of local atoms is listed both ways; edges from the cutoff on are ignored.
        vectors
            float64 ``(E, 3)`` Å from receiver to sender; None to compute them from
        positions, shifts, cells
            float64 ``(M, 3)`` Å, int32 ``(E, 3)`` and float64 ``(G, 3, 3)`` Å.
        heads
            See :data:`Heads`.
        structure_offsets
            int64 ``(G + 1,)``: first atom of each structure; None for a single one.
        charge, spin
            int32 ``(G,)``: e; 2S+1 or 0 when not stated.
        exchange
            Fills the rows of ghosts; needed if there are any.
        forces, virials, features
            What to compute besides energies; `forces` brings the virial along.
        check_support
            Raise for what a head was not trained on.
        check_full
            Raise if a pair of local atoms is listed one way only.

        Raises
        ------
        UnknownHeadError, UnknownElementError, UnsupportedChargeError, InvalidStructureError, ConfigurationError,
        SimulationError
        """
        numbers_ = _array(numbers, np.int32)
        offsets_ = _array(offsets, np.int64)
        if offsets_.ndim != 1 or len(offsets_) == 0 or len(offsets_) > len(numbers_) + 1:
            raise ConfigurationError(f"offsets of shape {offsets_.shape} do not fit {len(numbers_)} atoms")
        n_local, n_total = len(offsets_) - 1, len(numbers_)
        n_edges = int(offsets_[-1])
        senders_ = np.asarray(senders)
        senders_ = np.ascontiguousarray(senders_, np.int64 if senders_.dtype == np.int64 else np.int32)
        structures = None if structure_offsets is None else _array(structure_offsets, np.int64)
        n_structures = 1 if structures is None else len(structures) - 1
        weights = self._weights(heads, n_structures)
        inputs: dict[str, NDArray[Any] | None] = {
            "numbers": numbers_,
            "offsets": offsets_,
            "senders64" if senders_.dtype == np.int64 else "senders": senders_,
            "vectors": _optional(vectors, np.float64, (n_edges, 3)),
            "positions": _optional(positions, np.float64, (n_total, 3)),
            "shifts": _optional(shifts, np.int32, (n_edges, 3)),
            "cells": _optional(cells, np.float64, (n_structures, 3, 3)),
            "structure_offsets": structures,
            "charge": _optional(charge, np.int32, (n_structures,)),
            "spin": _optional(spin, np.int32, (n_structures,)),
            "head_weights": weights,
        }
        if len(senders_) < n_edges:
            raise ConfigurationError(f"{len(senders_)} senders for {n_edges} edges")
        outputs = {
            "energy": np.zeros(n_structures),
            "energies": np.zeros(n_local),
            "forces": np.zeros((n_total, 3)) if forces else None,
            "virial": np.zeros((n_structures, 3, 3)) if forces else None,
            "virials": np.zeros((n_total, 3, 3)) if virials else None,
            "features": np.zeros((n_local, self.model.channels)) if features else None,
        }
        failures: list[BaseException] = []
        callback = _callback(exchange, failures) if exchange is not None else Exchange()
        request = Input(
            n_local=n_local,
            n_total=n_total,
            n_structures=n_structures,
            head_weights_stride=weights.shape[1] if len(weights) > 1 else 0,
            exchange=callback,
            check=_CHECK_SUPPORT * check_support + _CHECK_FULL * check_full,
            **{name: _address(array) for name, array in inputs.items()},
        )
        reply = Output(**{name: _address(array) for name, array in outputs.items()})
        status = library().hydrapot_evaluate(
            self.model.handle, self._handle, ctypes.byref(request), ctypes.byref(reply)
        )
        if failures:
            raise failures[0]
        check(status)
        return NativeResult(**outputs)  # type: ignore[arg-type]  # energies are never None

    def prepare(
        self,
        numbers: ArrayLike,
        offsets: ArrayLike,
        senders: ArrayLike,
        shifts: ArrayLike,
        *,
        heads: Heads,
        charge: int = 0,
        spin: int = 0,
        forces: bool = True,
    ) -> "PreparedCall":
        """A structure that will be evaluated at many positions with the same list of pairs; as :meth:`evaluate_arrays`."""
        return PreparedCall(
            self, numbers, offsets, senders, shifts, heads=heads, charge=charge, spin=spin, forces=forces
        )

    def evaluate(
        self,
        graph: Graph,
        *,
        heads: Heads,
        virials: bool = True,
        features: bool = False,
        check_support: bool = True,
    ) -> NativeResult:
        """Evaluate a graph as it is: rows padded with edges at the cutoff are a list with edges to be ignored.

        Parameters
        ----------
        graph
            One structure or many, on the CPU.
        heads, virials, features, check_support
            As for :meth:`evaluate_arrays`.
        """
        n_atoms = graph.n_atoms
        counts = torch.bincount(graph.batch, minlength=graph.n_graphs).numpy()
        return self.evaluate_arrays(
            graph.numbers.numpy(),
            np.arange(n_atoms + 1) * graph.degree,
            graph.edge_index[1].numpy(),
            graph.edge_vectors.detach().double().numpy(),
            heads=heads,
            structure_offsets=np.concatenate([[0], np.cumsum(counts)]),
            charge=graph.charge.numpy(),
            spin=graph.spin.numpy(),
            virials=virials,
            features=features,
            check_support=check_support,
        )

    def predict(self, graph: Graph, *, heads: Heads, virials: bool = True, check_support: bool = True) -> Prediction:
        """As :func:`hydrapot.potential.evaluate.evaluate`, reference energies included; NaN virials if not asked for."""
        result = self.evaluate(graph, heads=heads, virials=virials, check_support=check_support)
        weights = self._weights(heads, graph.n_graphs)
        used = np.flatnonzero(weights.any(axis=0))
        numbers, batch = graph.numbers.numpy(), graph.batch.numpy()
        references = np.zeros(graph.n_atoms)
        elements, index = np.unique(numbers, return_inverse=True)
        for h in used:
            energies = np.array([self.model.reference_energy(self.model.heads[h], int(z)) for z in elements])
            weight = weights[batch if len(weights) > 1 else np.zeros_like(batch), h]
            references += np.where(weight == 0, 0.0, weight * energies[index])
        reference = torch.zeros(graph.n_graphs, dtype=torch.float64).index_add(
            0, graph.batch, torch.from_numpy(references)
        )
        interaction, virial = torch.from_numpy(result.energy), torch.from_numpy(result.virial)
        missing = torch.full((graph.n_atoms, 3, 3), torch.nan, dtype=torch.float64)
        volume = torch.where(graph.pbc.all(dim=1), volumes(graph), torch.nan)
        return Prediction(
            energy=interaction + reference,
            interaction_energy=interaction,
            reference_energy=reference,
            energies=torch.from_numpy(result.energies + references),
            forces=torch.from_numpy(result.forces),
            virial=virial,
            virials=missing if result.virials is None else torch.from_numpy(result.virials),
            stress=-virial / volume[:, None, None],
        )

    def _weights(self, heads: Heads, n_structures: int) -> NDArray[np.float64]:
        """``(1 or G, heads)``."""
        each = [heads] if isinstance(heads, str | Mapping) else list(heads)
        if len(each) != 1 and len(each) != n_structures:
            raise ConfigurationError(f"{len(each)} choices of heads for {n_structures} structures")
        weights = np.zeros((len(each), len(self.model.heads)))
        for row, choice in zip(weights, each, strict=True):
            for name, weight in ({choice: 1.0} if isinstance(choice, str) else choice).items():
                if name not in self.model.heads:
                    raise UnknownHeadError(f"unknown head {name!r}: this model has {', '.join(self.model.heads)}")
                row[self.model.heads.index(name)] = weight
        return weights


class PreparedCall:
    """One structure in one engine, its arrays and addresses laid out once: a call costs microseconds beside the engine's.

    Made by :meth:`NativeEngine.prepare`. Elements, charge and spin are not checked. `shifts` may be changed in place, when
    atoms are wrapped into another image.
    """

    def __init__(
        self,
        engine: NativeEngine,
        numbers: ArrayLike,
        offsets: ArrayLike,
        senders: ArrayLike,
        shifts: ArrayLike,
        *,
        heads: Heads,
        charge: int,
        spin: int,
        forces: bool = True,
    ) -> None:
        self.engine = engine
        numbers_, senders_ = _array(numbers, np.int32), _array(senders, np.int32)
        n_atoms, n_edges = len(numbers_), len(senders_)
        self.positions = np.zeros((n_atoms, 3))
        self.cell = np.zeros((1, 3, 3))
        self.shifts = _array(shifts, np.int32)
        self._energy, self._energies = np.zeros(1), np.zeros(n_atoms)
        self._forces = np.zeros((n_atoms, 3)) if forces else None
        self._virial = np.zeros((1, 3, 3)) if forces else None
        inputs = {
            "numbers": numbers_,
            "offsets": _array(offsets, np.int64),
            "senders": senders_,
            "positions": self.positions,
            "shifts": _optional(self.shifts, np.int32, (n_edges, 3)),
            "cells": self.cell,
            "charge": _array([charge], np.int32),
            "spin": _array([spin], np.int32),
            "head_weights": engine._weights(heads, 1),  # noqa: SLF001 - of the same module
        }
        self._inputs = inputs  # the engine reads them, so they have to live as long
        self._request = Input(
            n_local=n_atoms,
            n_total=n_atoms,
            n_structures=1,
            **{name: _address(array) for name, array in inputs.items()},
        )
        self._reply = Output(
            energy=_address(self._energy),
            energies=_address(self._energies),
            forces=_address(self._forces),
            virial=_address(self._virial),
        )
        self._arguments = (ctypes.byref(self._request), ctypes.byref(self._reply))
        self._function = library().hydrapot_evaluate

    def __call__(
        self, positions: NDArray[np.float64], cell: NDArray[np.float64], *, engine: NativeEngine | None = None
    ) -> NativeResult:
        """Evaluate at positions ``(N, 3)`` and with a cell ``(3, 3)`` in Å; the arrays of the result are new ones.

        `engine`, of the same model, takes the place of the one that the call was prepared in: that of the calling thread.
        """
        self.positions[...] = positions
        self.cell[0] = cell
        used = self.engine if engine is None else engine
        check(self._function(used.model.handle, used.handle, *self._arguments))
        return NativeResult(
            self._energy.copy(),
            self._energies.copy(),
            None if self._forces is None else self._forces.copy(),
            None if self._virial is None else self._virial.copy(),
            None,
            None,
        )


def _array(values: ArrayLike, dtype: type) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype)


def _optional(values: ArrayLike | None, dtype: type, shape: tuple[int, ...]) -> NDArray[Any] | None:
    if values is None:
        return None
    array = _array(values, dtype)
    if array.ndim != len(shape) or len(array) < shape[0] or array.shape[1:] != shape[1:]:
        raise ConfigurationError(f"an array of shape {array.shape} where {shape} is needed")
    return array


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _callback(exchange: ExchangeFunction, failures: list[BaseException]) -> Any:
    """The exchange as a C function; what it raises is kept, since nothing may be raised through C."""

    def call(
        _context: object, stage: int, layer: int, rows: int, _n_local: int, n_total: int, width: int, item: int
    ) -> int:
        try:
            number = ctypes.c_float if item == 4 else ctypes.c_double
            array = np.ctypeslib.as_array((number * (n_total * width)).from_address(rows)) if n_total else np.zeros(0)
            exchange("gradients" if stage else "features", layer, array.reshape(n_total, width))
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            failures.append(error)
            return 1
        return 0

    return Exchange(call)
