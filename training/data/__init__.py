"""Datasets: reading, caching, splitting."""

from hydrapot.training.data.extxyz import read_extxyz, read_many
from hydrapot.training.data.frames import DatasetError, Frames, Structure
from hydrapot.training.data.splits import SplitManifest, load_manifest, make_manifest, save_manifest

__all__ = [
    "DatasetError",
    "Frames",
    "SplitManifest",
    "Structure",
    "load_manifest",
    "make_manifest",
    "read_extxyz",
    "read_many",
    "save_manifest",
]
