"""Checkpoints: a potential in one ``.safetensors`` file, read strictly or not at all, without pickle.

==========================  ==============================================================================
where                       what
==========================  ==============================================================================
document, in the header     :class:`CheckpointDocument`: schema version, architecture, heads, provenance,
                            reference energies and scale of each head (exact in float64), content hash
``network.<name>``          weights, all float32 or all float64
``references.<head>.span``  ``(k, elements)`` float64: the compositions that determine the references;
                            columns in the order of the document's elements
==========================  ==============================================================================
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from hydrapot.potential import container
from hydrapot.potential.errors import CheckpointError
from hydrapot.potential.metadata import CheckpointInfo
from hydrapot.potential.model import Potential
from hydrapot.potential.references import N_ELEMENTS, ReferenceEnergies
from hydrapot.potential.upgraders import upgrade

#: Version that :func:`save` writes. Raise it with every change of the document or of tensor names; see
#: :mod:`hydrapot.potential.upgraders`.
SCHEMA_VERSION = 1

_KIND = "hydrapot"
_WHAT = "hydrapot checkpoint"
_NETWORK = "network."


class CheckpointDocument(CheckpointInfo):
    """The whole JSON document of a checkpoint."""

    schema_version: int
    reference_energies: dict[str, dict[str, float]] = Field(description="Head → chemical symbol → eV.")
    scales: dict[str, float] = Field(description="Head → eV per unit output.")


def save(potential: Potential, path: str | Path) -> str:
    """Write a potential, atomically; an existing file is replaced.

    Parameters
    ----------
    potential
        Its weights must be float32 or float64; they are stored as they are.
    path
        Ends in ``.safetensors``; the folder must exist.

    Returns
    -------
    The content hash. ``potential.info`` is not touched.

    Raises
    ------
    CheckpointError
        Another suffix, a metadata value that is not finite or not JSON, weights of another precision, a
        folder that cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: the name of a checkpoint ends in .safetensors")
    weights = {_NETWORK + name: tensor for name, tensor in potential.state_dict().items()}
    if (dtypes := {t.dtype for t in weights.values()}) not in ({torch.float32}, {torch.float64}):
        raise CheckpointError(
            f"{path}: not written: weights are {', '.join(sorted(map(str, dtypes)))}; "
            "cast the model with .float() or .double()"
        )
    spans, energies = {}, {}
    for head, references in potential.references.items():
        if references.mode != potential.info.heads[head].references:
            raise CheckpointError(
                f"{path}: not written: the references of head {head!r} are {references.mode!r}, "
                f"its metadata says {potential.info.heads[head].references!r}"
            )
        energies[head] = {chemical_symbols[z]: float(references.values[z]) for z in references.elements}
        spans[_span_name(head)] = torch.from_numpy(_pack_span(references, head=head))
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        **potential.info.model_dump(),
        "reference_energies": energies,
        "scales": {head: potential.head(head).scale for head in potential.heads},
    }
    try:
        _parse(document)  # model_copy and model_construct of pydantic check nothing
    except CheckpointError as error:
        raise CheckpointError(f"{path}: not written: {error}") from error
    return container.write(path, kind=_KIND, document=document, tensors={**weights, **spans})


def read(path: str | Path) -> Potential:
    """Read a potential in the precision that it was stored in, on the CPU, ready to be trained further.

    The random state of torch is left alone.

    Raises
    ------
    CheckpointError
        Missing, truncated, of another kind or schema, altered, or with tensors that do not fit its
        architecture.
    """
    raw = container.read(path, kind=_KIND, what=_WHAT)
    try:
        document, tensors = upgrade(raw.document, raw.tensors, target=SCHEMA_VERSION)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    try:
        return _build(_parse(document), tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; get the file again") from error


def _parse(document: Mapping[str, Any]) -> CheckpointDocument:
    try:
        parsed = CheckpointDocument.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"invalid document: {where}: {first['msg']}") from error
    for field in ("reference_energies", "scales"):
        if set(getattr(parsed, field)) != set(parsed.heads):
            raise CheckpointError(f"invalid document: {field} are not those of its heads")
    return parsed


def _build(document: CheckpointDocument, tensors: dict[str, Tensor]) -> Potential:
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith(_NETWORK)}
    spans = {name: tensor for name, tensor in tensors.items() if name not in weights}
    info = CheckpointInfo(**{name: getattr(document, name) for name in CheckpointInfo.model_fields})
    references = {}
    for head, energies in document.reference_energies.items():
        span = spans.pop(_span_name(head), None)
        references[head] = _unpack_references(head, info.heads[head].references, energies, span)
    if spans:
        raise CheckpointError(f"unexpected tensor {min(spans)!r}")
    if (dtypes := {t.dtype for t in weights.values()}) not in ({torch.float32}, {torch.float64}):
        raise CheckpointError(f"weights are {', '.join(sorted(map(str, dtypes))) or 'missing'}")
    with torch.random.fork_rng(devices=[]):  # the random weights of a new model are overwritten
        potential = Potential(info, references=references, scales=document.scales)
    potential = potential.to(dtypes.pop())
    expected = {_NETWORK + name: tensor.shape for name, tensor in potential.state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise CheckpointError(f"missing tensor {name!r}")
        if name not in expected:
            raise CheckpointError(f"unexpected tensor {name!r}")
        if weights[name].shape != expected[name]:
            raise CheckpointError(
                f"tensor {name!r} has shape {tuple(weights[name].shape)}, not {tuple(expected[name])}"
            )
    potential.load_state_dict({name.removeprefix(_NETWORK): tensor for name, tensor in weights.items()}, strict=True)
    return potential


def _span_name(head: str) -> str:
    return f"references.{head}.span"


def _pack_span(references: ReferenceEnergies, *, head: str) -> NDArray[np.float64]:
    """``(k, 119)`` → ``(k, elements)``: columns of elements without a reference are zero and stay out."""
    inside = references.span[:, references.elements]
    if np.count_nonzero(inside) != np.count_nonzero(references.span):
        raise CheckpointError(f"head {head!r}: the span of its references reaches elements that have none")
    return np.ascontiguousarray(inside)


def _unpack_references(head: str, mode: Any, energies: Mapping[str, float], span: Tensor | None) -> ReferenceEnergies:
    unknown = [symbol for symbol in energies if atomic_numbers.get(symbol, 0) < 1]
    if unknown:
        raise CheckpointError(f"invalid document: reference_energies.{head}: {unknown[0]!r} is not an element")
    name = _span_name(head)
    if span is None:
        raise CheckpointError(f"missing tensor {name!r}")
    if span.dtype != torch.float64 or span.ndim != 2 or span.shape[1] != len(energies):
        raise CheckpointError(
            f"tensor {name!r} is {span.dtype} of shape {tuple(span.shape)}, not float64 of shape (k, {len(energies)})"
        )
    columns = [atomic_numbers[symbol] for symbol in energies]
    values = np.full(N_ELEMENTS, np.nan)
    values[columns] = list(energies.values())
    full = np.zeros((span.shape[0], N_ELEMENTS))
    full[:, columns] = span.numpy()
    return ReferenceEnergies(values=values, mode=mode, span=full)
