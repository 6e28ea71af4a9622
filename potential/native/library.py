"""The C interface of the native engine (``include/hydrapot.h``) through ctypes: types, loading, errors."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint8, c_void_p
from functools import cache
from pathlib import Path

from hydrapot.potential.errors import (
    CheckpointError,
    ConfigurationError,
    InvalidStructureError,
    SimulationError,
    UnknownElementError,
    UnknownHeadError,
    UnsupportedChargeError,
)

#: Version of the interface that the declarations below are for.
ABI = 2

_NAME = "libhydrapot.so"

#: int (context, stage, layer, rows, n_local, n_total, width, item size)
Exchange = ctypes.CFUNCTYPE(c_int, c_void_p, c_int32, c_int32, c_void_p, c_int64, c_int64, c_int32, c_int32)


class _Sized(ctypes.Structure):
    """A structure that says its own size first, so that versions cannot be mixed up."""

    def __init__(self, **values: object) -> None:
        super().__init__(size=ctypes.sizeof(type(self)), **values)


class Architecture(_Sized):
    """``hydrapot_architecture``."""

    _fields_ = (
        ("size", c_size_t),
        ("channels", c_int32),
        ("layers", c_int32),
        ("n_radial", c_int32),
        ("head_hidden", c_int32),
        ("charge_spin", c_int32),
        ("repulsion", c_int32),
        ("cutoff", c_double),
        ("neighbor_scale", c_double),
    )


class Options(_Sized):
    """``hydrapot_options``."""

    _fields_ = (
        ("size", c_size_t),
        ("precision", c_int32),
        ("knots", c_int32),
        ("instruction_set", c_char_p),
    )


class Input(_Sized):
    """``hydrapot_input``; arrays by address."""

    _fields_ = (
        ("size", c_size_t),
        ("n_local", c_int64),
        ("n_total", c_int64),
        ("n_structures", c_int64),
        ("numbers", c_void_p),
        ("structure_offsets", c_void_p),
        ("charge", c_void_p),
        ("spin", c_void_p),
        ("head_weights", c_void_p),
        ("head_weights_stride", c_int64),
        ("offsets", c_void_p),
        ("senders", c_void_p),
        ("senders64", c_void_p),
        ("vectors", c_void_p),
        ("positions", c_void_p),
        ("shifts", c_void_p),
        ("cells", c_void_p),
        ("exchange", Exchange),
        ("exchange_context", c_void_p),
        ("check", c_int32),
    )


class Output(_Sized):
    """``hydrapot_output``; arrays by address, None where nothing is wanted."""

    _fields_ = (
        ("size", c_size_t),
        ("energy", c_void_p),
        ("energies", c_void_p),
        ("forces", c_void_p),
        ("virial", c_void_p),
        ("virials", c_void_p),
        ("features", c_void_p),
    )


class MessagesOptions(_Sized):
    """``hydrapot_messages_options``."""

    _fields_ = (
        ("size", c_size_t),
        ("channels", c_int32),
        ("n_radial", c_int32),
        ("precision", c_int32),
        ("knots", c_int32),
        ("threads", c_int32),
        ("cutoff", c_double),
        ("instruction_set", c_char_p),
        ("region", c_void_p),
    )


class MessagesArrays(_Sized):
    """``hydrapot_messages_arrays``; arrays by address, None where there is none."""

    _fields_ = (
        ("size", c_size_t),
        ("n_atoms", c_int64),
        ("degree", c_int64),
        ("parts", c_int32),
        ("records", c_void_p),
        ("cells", c_void_p),
        ("counts", c_void_p),
        ("senders", c_void_p),
        ("reverse", c_void_p),
        ("table", c_void_p),
        ("context", c_void_p),
        ("vectors", c_void_p),
        ("scalar_gradient", c_void_p),
        ("vector_gradient", c_void_p),
        ("context_tangent", c_void_p),
        ("vector_tangent", c_void_p),
        ("edge_tangent", c_void_p),
        ("scalar_sum", c_void_p),
        ("vector_sum", c_void_p),
        ("context_out", c_void_p),
        ("vectors_out", c_void_p),
        ("edges_out", c_void_p),
        ("table_out", c_void_p),
    )


#: Function → (result, arguments).
_FUNCTIONS = {
    "hydrapot_abi": (c_int, ()),
    "hydrapot_last_error": (c_char_p, ()),
    "hydrapot_instruction_sets": (c_char_p, ()),
    "hydrapot_read": (c_int, (c_char_p, POINTER(c_void_p))),
    "hydrapot_source_create": (c_int, (POINTER(Architecture), POINTER(c_void_p))),
    "hydrapot_source_tensor": (c_int, (c_void_p, c_char_p, POINTER(c_int64), c_int32, c_void_p)),
    "hydrapot_source_head": (
        c_int,
        (c_void_p, c_char_p, c_double, POINTER(c_double), POINTER(c_uint8), POINTER(c_int32), c_int32),
    ),
    "hydrapot_source_destroy": (None, (c_void_p,)),
    "hydrapot_model_create": (c_int, (c_void_p, POINTER(Options), POINTER(c_void_p))),
    "hydrapot_model_destroy": (None, (c_void_p,)),
    "hydrapot_model_architecture": (c_int, (c_void_p, POINTER(Architecture))),
    "hydrapot_model_heads": (c_int32, (c_void_p,)),
    "hydrapot_model_head_name": (c_char_p, (c_void_p, c_int32)),
    "hydrapot_model_reference": (c_double, (c_void_p, c_int32, c_int32)),
    "hydrapot_model_instruction_set": (c_char_p, (c_void_p,)),
    "hydrapot_workspace_create": (c_int, (c_void_p, c_int32, POINTER(c_void_p))),
    "hydrapot_workspace_destroy": (None, (c_void_p,)),
    "hydrapot_workspace_bytes": (c_size_t, (c_void_p,)),
    "hydrapot_evaluate": (c_int, (c_void_p, c_void_p, POINTER(Input), POINTER(Output))),
    "hydrapot_messages_create": (c_int, (POINTER(MessagesOptions), POINTER(c_void_p))),
    "hydrapot_messages_destroy": (None, (c_void_p,)),
    "hydrapot_messages_table_rows": (c_int64, (c_void_p,)),
    "hydrapot_messages_record_width": (c_int64, (c_void_p,)),
    "hydrapot_messages_instruction_set": (c_char_p, (c_void_p,)),
    "hydrapot_messages_basis": (c_int, (c_void_p, c_void_p)),
    "hydrapot_messages_describe": (c_int, (c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_void_p)),
    "hydrapot_messages_sum": (c_int, (c_void_p, POINTER(MessagesArrays))),
    "hydrapot_messages_gradient": (c_int, (c_void_p, POINTER(MessagesArrays))),
    "hydrapot_messages_second": (c_int, (c_void_p, POINTER(MessagesArrays))),
}

_ERRORS: dict[int, type[Exception]] = {
    1: CheckpointError,
    2: UnknownHeadError,
    3: UnknownElementError,
    4: UnsupportedChargeError,
    5: InvalidStructureError,
    6: ConfigurationError,
    7: SimulationError,
    8: SimulationError,
    9: MemoryError,
}


def library_path() -> Path:
    """Where an installation keeps the compiled library."""
    return Path(__file__).with_name(_NAME)


@cache
def _open() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    path = library_path()
    if not path.is_file():
        return (
            "the native engine is not built in this installation: install hydrapot again with a C++17 compiler "
            "(g++ or clang++) on the PATH"
        )
    try:
        library = ctypes.CDLL(str(path))
        abi = library.hydrapot_abi()
    except (OSError, AttributeError) as error:
        return f"the native engine cannot be loaded: {error}"
    if abi != ABI:
        return f"the native engine is of another version (interface {abi}, not {ABI}): install hydrapot again"
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def reason_missing() -> str | None:
    """Why the native engine cannot be used here; None if it can."""
    opened = _open()
    return opened if isinstance(opened, str) else None


def library() -> ctypes.CDLL:
    """The loaded library.

    Raises
    ------
    ConfigurationError
        It was not built, or cannot be loaded.
    """
    opened = _open()
    if isinstance(opened, str):
        raise ConfigurationError(opened)
    return opened


def check(status: int) -> None:
    """Raise what a status other than 0 stands for, with the library's own text."""
    if status:
        text = library().hydrapot_last_error().decode(errors="replace")
        raise _ERRORS.get(status, RuntimeError)(text)


def instruction_sets() -> list[str]:
    """Instruction sets that were built and that this processor has, best first."""
    names: bytes = library().hydrapot_instruction_sets()
    return names.decode().split()
