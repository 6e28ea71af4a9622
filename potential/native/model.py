"""Models of the native engine: from a checkpoint file or from a potential in memory, through the same builder."""

import ctypes
import weakref
from pathlib import Path
from typing import Literal

import numpy as np
from ase.data import atomic_numbers

from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.graph import MAX_ATOMIC_NUMBER, SPIN_ABSENT
from hydrapot.potential.model import Potential
from hydrapot.potential.native.library import Architecture, Options, check, library

#: Knots of the radial splines over the whole cutoff. Their error falls like (radial functions / knots)⁶; with 20 functions
#: it is 4e-8 of the root mean square force, far below the rounding of float32 (2e-6). More knots are slower.
DEFAULT_KNOTS = 256

_BITS = {"float32": 32, "float64": 64}


class NativeModel:
    """Weights prepared for a precision and for this processor. Immutable, shared by any number of engines and threads.

    Parameters
    ----------
    source
        A potential, whose weights are copied, or the path of a checkpoint, which the library reads by itself.
    dtype
        Precision of the network; geometry and sums of energies are float64 in either case.
    knots
        Knots of the splines that stand for the radial functions; 0 evaluates the functions themselves.
    instruction_set
        ``"generic"``, ``"avx2"`` or ``"avx512"``; the best of this processor for None.

    Raises
    ------
    ConfigurationError
        The native engine is not built, or an option makes no sense.
    CheckpointError
        A file that cannot be read.
    """

    def __init__(
        self,
        source: Potential | str | Path,
        *,
        dtype: Literal["float32", "float64"] = "float32",
        knots: int = DEFAULT_KNOTS,
        instruction_set: str | None = None,
    ) -> None:
        self._handle = ctypes.c_void_p()
        if dtype not in _BITS:
            raise ConfigurationError(f"dtype {dtype!r} is not supported: choose float32 or float64")
        handle = _build(source) if isinstance(source, Potential) else _read(Path(source))
        options = Options(
            precision=_BITS[dtype],
            knots=knots,
            instruction_set=None if instruction_set is None else instruction_set.encode(),
        )
        try:
            check(library().hydrapot_model_create(handle, ctypes.byref(options), ctypes.byref(self._handle)))
        finally:
            library().hydrapot_source_destroy(handle)
        weakref.finalize(self, library().hydrapot_model_destroy, self._handle)
        self.dtype = dtype
        self.knots = knots
        names = [library().hydrapot_model_head_name(self._handle, k) for k in range(self._n_heads())]
        self.heads: list[str] = [name.decode() for name in names]
        self.instruction_set: str = library().hydrapot_model_instruction_set(self._handle).decode()
        architecture = Architecture()
        check(library().hydrapot_model_architecture(self._handle, ctypes.byref(architecture)))
        self.channels: int = architecture.channels
        self.layers: int = architecture.layers
        #: Å.
        self.cutoff: float = architecture.cutoff

    @property
    def handle(self) -> ctypes.c_void_p:
        """Address of the C object."""
        return self._handle

    def reference_energy(self, head: str, number: int) -> float:
        """Energy of the isolated atom, eV; NaN where the head knows none."""
        energy: float = library().hydrapot_model_reference(self._handle, self.heads.index(head), number)
        return energy

    def _n_heads(self) -> int:
        count: int = library().hydrapot_model_heads(self._handle)
        return count


def _read(path: Path) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    check(library().hydrapot_read(str(path).encode(), ctypes.byref(handle)))
    return handle


def _build(potential: Potential) -> ctypes.c_void_p:
    """The source of a potential in memory: every tensor by its name, every head."""
    config = potential.config
    handle = ctypes.c_void_p()
    architecture = Architecture(
        channels=config.encoder.channels,
        layers=config.encoder.layers,
        n_radial=config.encoder.n_radial,
        head_hidden=config.head_hidden,
        charge_spin=int(config.charge_spin),
        repulsion=int(config.repulsion == "zbl"),
        cutoff=config.cutoff,
        neighbor_scale=config.encoder.neighbor_scale,
    )
    check(library().hydrapot_source_create(ctypes.byref(architecture), ctypes.byref(handle)))
    try:
        for name, tensor in potential.state_dict().items():
            data = np.ascontiguousarray(tensor.detach().cpu().double().numpy())
            shape = (ctypes.c_int64 * data.ndim)(*data.shape)
            check(library().hydrapot_source_tensor(handle, name.encode(), shape, data.ndim, data.ctypes.data))
        for name in potential.heads:
            _add_head(handle, potential, name)
    except BaseException:
        library().hydrapot_source_destroy(handle)
        raise
    return handle


def _add_head(handle: ctypes.c_void_p, potential: Potential, name: str) -> None:
    info = potential.info.heads[name]
    n_numbers = MAX_ATOMIC_NUMBER + 1
    known = (ctypes.c_uint8 * n_numbers)()
    for symbol, count in info.structures_per_element.items():
        known[atomic_numbers[symbol]] = int(count > 0)
    pairs = [(charge, SPIN_ABSENT if spin is None else spin) for charge, spin in info.charge_spin]
    flat = [number for pair in pairs for number in pair]
    references = (ctypes.c_double * n_numbers)(*potential.references[name].values.tolist())
    check(
        library().hydrapot_source_head(
            handle,
            name.encode(),
            potential.head(name).scale,
            references,
            known,
            (ctypes.c_int32 * len(flat))(*flat),
            len(pairs),
        )
    )
