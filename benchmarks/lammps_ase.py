"""Worker of ``lammps_speed.py``: dynamics with ASE and the native engine. Usage: ``lammps_ase.py MODEL HEAD STEPS``."""

import platform
import sys
from typing import Any

from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from speed_protocol import serve, timed
from speed_system import system

from hydrapot.calculators import HydrapotCalculator


class AseDynamics:
    """Steps of velocity Verlet; ``evaluate`` gives seconds per step."""

    def __init__(self, model: str, head: str, steps: str) -> None:
        self.model, self.head, self.steps = model, head, int(steps)
        self.threads = 1

    def describe(self) -> dict[str, Any]:
        """Versions."""
        return {"python": platform.python_version()}

    def set_threads(self, threads: int) -> None:
        """Threads of an evaluation."""
        if threads != self.threads:
            self.threads, self.atoms.calc = threads, None

    def prepare(self, name: str, n_cells: int) -> dict[str, Any]:
        """Build the system."""
        self.atoms = system(name, n_cells)
        MaxwellBoltzmannDistribution(self.atoms, temperature_K=600)
        return {"atoms": len(self.atoms)}

    def evaluate(self) -> float:
        """Seconds per step."""
        if self.atoms.calc is None:
            self.atoms.calc = HydrapotCalculator(self.model, head=self.head, backend="native", threads=self.threads)
            VelocityVerlet(self.atoms, timestep=units.fs).run(2)
        dynamics = VelocityVerlet(self.atoms, timestep=units.fs)
        return timed(lambda: dynamics.run(self.steps)) / self.steps

    def neighbor_list(self) -> float:
        """Not asked for."""
        raise NotImplementedError


if __name__ == "__main__":
    serve(lambda: AseDynamics(*sys.argv[1:4]))
