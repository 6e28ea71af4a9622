"""Open a file whatever it is compressed with, and tell by its first bytes what it is."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from hydrapot.training.data.frames import DatasetError

GZIP, BZIP2, XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"
DAMAGE = (lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError)
"""What the decompressors and decoders raise for a truncated or corrupt file."""


def first_bytes(path: Path, size: int) -> bytes:
    """Return the first bytes of what is in a file, decompressed."""
    with reading(path), open_binary(path) as handle:
        return handle.read(size)


def open_binary(path: Path) -> IO[bytes]:
    """Open a file and decompress it on the fly: gzip, bzip2 and xz by their first bytes, never by the name."""
    with path.open("rb") as handle:
        magic = handle.read(6)
    if magic.startswith(GZIP):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if magic.startswith(BZIP2):
        return cast("IO[bytes]", bz2.open(path, "rb"))
    if magic.startswith(XZ):
        return cast("IO[bytes]", lzma.open(path, "rb"))
    return path.open("rb")


def decompressed(raw: bytes) -> bytes:
    """Return what is in the bytes of a whole file; raises one of `DAMAGE`, or OSError, where they are not whole."""
    if raw.startswith(GZIP):
        return gzip.decompress(raw)
    if raw.startswith(BZIP2):
        with bz2.open(io.BytesIO(raw)) as handle:  # `bz2.decompress` takes a truncated file for a wrong argument
            return handle.read()
    return lzma.decompress(raw) if raw.startswith(XZ) else raw


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of opening and decompressing a file into one line."""
    try:
        yield
    except DAMAGE as error:
        raise DatasetError(f"{path}: truncated or corrupt ({error}): fetch the file again") from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DatasetError(f"cannot read {path}: {reason}") from error
