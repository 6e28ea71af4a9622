"""Datasets, objectives and the trainer of multi-head potentials."""
