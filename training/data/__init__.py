"""Datasets: reading, caching, splitting."""

from hydrapot.training.data.extxyz import read_extxyz, read_many
from hydrapot.training.data.frames import DatasetError, Frames, Structure

__all__ = ["DatasetError", "Frames", "Structure", "read_extxyz", "read_many"]
