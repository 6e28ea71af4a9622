"""A safetensors file that carries a JSON document and a content hash: checkpoints and training states.

Tensors and text only: nothing in such a file is executed on reading. The document is one entry of the
header's metadata, the hash one of its keys, so that a file is complete in itself and any altered bit of
tensors or document is noticed. Python writes the shortest decimal that reads back to the same float64, so
numbers in the document are exact too.
"""

import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hydrapot.potential.errors import CheckpointError

HASH_KEY = "content_hash"


class Container(NamedTuple):
    """Content of a file: the document (JSON types, with its ``content_hash``) and the tensors by name."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]


def content_hash(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of the document and all tensors.

    The document enters without its hash, as JSON with sorted keys and no spaces; tensors in the order of
    their names, each with name, dtype, shape and bytes.
    """
    digest = hashlib.sha256()
    bare = {key: value for key, value in document.items() if key != HASH_KEY}
    digest.update(json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(
    path: str | Path,
    *,
    kind: str,
    document: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    allow_nan: bool = False,
) -> str:
    """Write a container; a reader of `path` sees the old file or the new one, never half of one.

    Parameters
    ----------
    path
        Target; its folder must exist.
    kind
        What the file is, e.g. ``"hydrapot"``: the key of the document in the header.
    document
        JSON types with text as keys; a ``content_hash`` in it is replaced.
    tensors
        By name, of any dtype and device.
    allow_nan
        Accept NaN and infinity, which JSON proper does not have, in the document.

    Returns
    -------
    The content hash.

    Raises
    ------
    CheckpointError
        The document holds something that JSON cannot express, or the file cannot be written.
    """
    try:
        plain = _plain(document, "")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: not written: {error}") from error
    if not allow_nan and (bad := _not_finite(plain, "")):
        raise CheckpointError(f"{path}: not written: {bad} is not a finite number; leave it out")
    plain[HASH_KEY] = content_hash(plain, tensors)
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = safetensors.torch.save(stored, metadata={kind: json.dumps(plain, ensure_ascii=False)})
    try:
        write_atomically(path, data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error
    return str(plain[HASH_KEY])


def read(path: str | Path, *, kind: str, what: str) -> Container:
    """Read a container and verify its content hash.

    Parameters
    ----------
    path
        File to read.
    kind
        As for :func:`write`.
    what
        What the user expects the file to be, for messages: ``"hydrapot checkpoint"``.

    Raises
    ------
    CheckpointError
        Missing, truncated, of another kind, or altered.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; check the path of the {what}")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file; name the .safetensors file of the {what}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned: the tensors are views of the mapped file, which may be replaced or truncated later.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a safetensors file, or a truncated one ({_one_line(error)}); get the file again"
        ) from error
    if kind not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not a {what}: its header has no {kind!r} document")
    try:
        document = json.loads(metadata[kind])
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path}: the document in its header is not JSON ({error}); get the file again"
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get(HASH_KEY), str):
        raise CheckpointError(f"{path}: the document in its header has no content hash; get the file again")
    if content_hash(document, tensors) != document[HASH_KEY]:
        raise CheckpointError(
            f"{path}: altered since it was written (its content hash does not match); get the file again"
        )
    return Container(document, tensors)


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` under a temporary name in the same folder, flush it to the disk, rename it to `path`.

    Raises
    ------
    OSError
        The folder does not exist or cannot be written to; nothing is left behind then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself is on the disk only when the folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _plain(value: Any, where: str) -> Any:
    """`value` in JSON types only, so that what is hashed is what is read back."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{k}]") for k, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{where}.{key}" if where else key) for key, item in value.items()}
    raise CheckpointError(f"{where or 'document'} is {type(value).__name__}, which JSON does not have")


def _not_finite(value: Any, where: str) -> str:
    if isinstance(value, float):
        return "" if math.isfinite(value) else where
    if isinstance(value, dict):
        return next((bad for k, v in value.items() if (bad := _not_finite(v, f"{where}.{k}" if where else k))), "")
    if isinstance(value, list):
        return next((bad for k, v in enumerate(value) if (bad := _not_finite(v, f"{where}[{k}]"))), "")
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
