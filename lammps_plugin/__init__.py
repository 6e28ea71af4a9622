"""Adapters of the potential to LAMMPS: units, layout of arrays and communication, no physics."""
