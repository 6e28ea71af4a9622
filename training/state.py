"""Training state on disk, without pickle: tensors in a safetensors file, all else as JSON in its header.

What is kept is what no configuration can tell: weights, optimizer moments, averages, positions, generator
states. Learning rates, betas and the like belong to the configuration and are not stored. All of it comes
back to the last bit, so that on a CPU a resumed run continues as if it had never been interrupted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hydrapot.potential import container
from hydrapot.potential.errors import CheckpointError

#: Version of what :func:`save_state` writes. A state serves to resume: older ones are refused, not upgraded.
STATE_VERSION = 1

_KIND = "hydrapot-training"
_WHAT = "hydrapot training state"
_VERSION_KEY = "state_version"


def save_state(path: str | Path, *, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write a training state, atomically; an existing file is replaced.

    Parameters
    ----------
    path
        File to write; its folder must exist.
    tensors
        By name, of any dtype and device.
    document
        JSON types with text as keys (tuples come back as lists); NaN and infinity are allowed.

    Raises
    ------
    CheckpointError
        Something in the document is not of a JSON type, or the file cannot be written.
    """
    stored = {**document, _VERSION_KEY: STATE_VERSION}
    container.write(path, kind=_KIND, document=stored, tensors=tensors, allow_nan=True)


def load_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and document as they were given to :func:`save_state`.

    Raises
    ------
    CheckpointError
        Missing, truncated, altered, or not a training state of this version.
    """
    document, tensors = container.read(path, kind=_KIND, what=_WHAT)
    version = document.pop(_VERSION_KEY, None)
    if version != STATE_VERSION:
        raise CheckpointError(
            f"{path}: training state of version {version}, this hydrapot resumes version {STATE_VERSION}: "
            "resume with the hydrapot that wrote it"
        )
    del document[container.HASH_KEY]
    return tensors, document


def flatten_optimizer(optimizer: Optimizer, module: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's state as tensors named ``<parameter>/<quantity>``, e.g. ``head.weight/exp_avg``.

    Parameters
    ----------
    optimizer
        One whose state per parameter is tensors, such as AdamW.
    module
        Owns every parameter of the optimizer and gives the names; or the parameters by name.

    Raises
    ------
    ValueError
        A parameter that `module` does not own.
    TypeError
        State that is not a tensor.
    """
    tensors = {}
    for name, parameter in _named_parameters(optimizer, module).items():
        for quantity, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                raise TypeError(f"optimizer state {name}/{quantity} is {type(value).__name__}, not a tensor")
            tensors[f"{name}/{quantity}"] = value.detach()
    return tensors


def restore_optimizer(
    optimizer: Optimizer, module: nn.Module | Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`flatten_optimizer` gave; hyperparameters of the optimizer stay as they are.

    Parameters
    ----------
    optimizer, module
        Constructed as they were when the state was flattened; their own state is replaced.
    tensors
        The state, on any device.

    Raises
    ------
    CheckpointError
        A tensor of another parameter, shape or precision.
    """
    parameters = _named_parameters(optimizer, module)
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"optimizer state {key!r} belongs to no parameter of this model")
        parameter = parameters[name]
        # AdamW counts steps in a float32 scalar of its own; everything else is of the parameter's kind.
        if value.ndim > 0 and (value.shape, value.dtype) != (parameter.shape, parameter.dtype):
            raise CheckpointError(
                f"optimizer state {key!r} is {value.dtype} of shape {tuple(value.shape)}, "
                f"its parameter {parameter.dtype} of shape {tuple(parameter.shape)}"
            )
        state.setdefault(name, {})[quantity] = value
    order = [p for group in optimizer.param_groups for p in group["params"]]
    index = {id(parameter): k for k, parameter in enumerate(order)}
    # load_state_dict decides where each quantity lives.
    document = optimizer.state_dict()
    document["state"] = {
        index[id(parameters[name])]: {quantity: value.clone() for quantity, value in values.items()}
        for name, values in state.items()
    }
    optimizer.load_state_dict(document)


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """State of a numpy generator in JSON types (of any size: PCG64 has integers of 128 bits)."""
    return dict(_encode(generator.bit_generator.state))


def restore_generator(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Put back what :func:`generator_state` gave.

    Raises
    ------
    CheckpointError
        The state of another kind of generator.
    """
    mine = type(generator.bit_generator).__name__
    if state.get("bit_generator") != mine:
        raise CheckpointError(f"random state of {state.get('bit_generator')}, but the generator is {mine}")
    generator.bit_generator.state = _decode(state)


def torch_random_state() -> dict[str, Tensor]:
    """States of torch's generators, the CPU's and those of all GPUs, as uint8 tensors by device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{k}": state for k, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_torch_random_state(states: Mapping[str, Tensor]) -> None:
    """Put back what :func:`torch_random_state` gave; states of GPUs that are absent now are left out."""
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif int(device.removeprefix("cuda:")) < present:
            torch.cuda.set_rng_state(state, device)


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under ``prefix/name``, for :func:`save_state`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of `tensors` those under ``prefix/``, by their bare names: the inverse of :func:`with_prefix`."""
    head = f"{prefix}/"
    return {name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)}


def _named_parameters(optimizer: Optimizer, module: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    owned = dict(module.named_parameters()) if isinstance(module, nn.Module) else module
    names = {id(parameter): name for name, parameter in owned.items()}
    named = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise ValueError("the optimizer holds a parameter that the module does not own")
            named[names[id(parameter)]] = parameter
    return named


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item() if isinstance(value, np.generic) else value


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"array", "dtype"}:
            return np.array(value["array"], dtype=value["dtype"])
        return {key: _decode(item) for key, item in value.items()}
    return value
