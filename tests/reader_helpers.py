"""Tiny files in the layouts of published datasets, and reading them."""

import json
import struct

import numpy as np

from hydrapot.training.data.readers import ReaderOptions, format_of, read_chunks

HARTREE = 27.211386245988  # eV
HARTREE_PER_BOHR = 51.42206747632590  # eV/Å
BOHR = 0.529177210903  # Å
KBAR = 0.0006241509074460763  # eV/Å³: 0.1 GPa over 160.2176634


def read_all(path, *, layout=None, start=0, size=1024, **options):
    """Frames, rejects, and the positions at which chunks end."""
    layout = layout or format_of(path)
    return list(read_chunks(path, layout=layout, name="set", start=start, size=size, options=ReaderOptions(**options)))


def only_chunk(path, **options):
    (chunk,) = read_all(path, **options)
    return chunk


def pymatgen_structure(symbols, fractions, matrix, *, cartesian=True, properties=None):
    """What `Structure.as_dict()` holds."""
    matrix = np.asarray(matrix, float)
    sites = []
    for i, (symbol, abc) in enumerate(zip(symbols, fractions, strict=True)):
        site = {"species": [{"element": symbol, "occu": 1}], "abc": list(abc), "label": symbol}
        if cartesian:
            site["xyz"] = (np.asarray(abc) @ matrix).tolist()
        if properties:
            site["properties"] = {key: values[i] for key, values in properties.items()}
        sites.append(site)
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": None,
        "lattice": {"matrix": matrix.tolist(), "a": 4.0, "b": 4.0, "c": 5.0, "alpha": 90.0, "volume": 80.0},
        "sites": sites,
    }


CELL = [[4.0, 0.0, 0.0], [0.5, 4.0, 0.0], [0.0, 0.25, 5.0]]
FRACTIONS = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
ROCK_SALT = pymatgen_structure(["Li", "O"], FRACTIONS, CELL)


def dump(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


# --- TFRecord, written from its definition and not with the code that reads it ---


def crc32c(data):
    """Bit by bit (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def message(field, body):
    return varint(field << 3 | 2) + varint(len(body)) + body


def tf_feature(values):
    if isinstance(values, bytes):
        return message(1, message(1, values))
    if np.asarray(values).dtype.kind == "f":
        return message(2, message(1, np.asarray(values, "<f4").tobytes()))
    return message(3, message(1, b"".join(varint(int(v)) for v in values)))


def tf_record(features):
    entries = b"".join(
        message(1, message(1, key.encode()) + message(2, tf_feature(value))) for key, value in features.items()
    )
    example = message(1, entries)
    size = struct.pack("<Q", len(example))
    return size + masked(size) + example + masked(example)
