"""One matrix of systems and runs for every way into LAMMPS; each frame is evaluated again as a whole, in float64.

A way into LAMMPS differs in the lines that name the potential (:class:`Lines`) and in the command that runs a deck, not
in what is asked of it: see test_lammps_external.py.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.data import atomic_masses
from ase.neighborlist import neighbor_list

from hydrapot.potential.checkpoint import save
from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import build_graph
from hydrapot.potential.model import Potential
from tests.contract_helpers import random_potential

logger = logging.getLogger(__name__)

#: LAMMPS' pressure unit: bar per eV/Å³ in `units metal`.
NKTV2P = 1.6021765e6
#: eV/atom; eV/Å; relative. LAMMPS writes all digits.
ENERGY, FORCE, VIRIAL = 1e-10, 1e-9, 1e-8
HEAD = "a"
#: (elements of the types 1, 2, … in their order) → lines of the deck.
Lines = Callable[[tuple[str, ...]], str]


def make_potential() -> Potential:
    """Three layers, random weights; heads a and b. Forces small enough to run dynamics with."""
    return random_potential(layers=3, channels=8, cutoff=4.0, heads=("a", "b"), charge_spin=False, scale=1.0)


def write_model(folder: Path) -> Path:
    path = folder / "model.safetensors"
    save(make_potential(), path)
    return path


def style_lines(model: Path, *, head: str = HEAD, options: str = "radial exact") -> Lines:
    """Of `pair_style hydrapot`, compiled or through fix external, at full precision."""

    def lines(elements: tuple[str, ...]) -> str:
        return (
            f"pair_style hydrapot precision double energy interaction {options}\n"
            f"pair_coeff * * {model} {head} {' '.join(elements)}"
        )

    return lines


@dataclass(frozen=True)
class System:
    atoms: Atoms  # cell in LAMMPS' orientation: a lower triangle
    elements: tuple[str, ...]  # of the types
    boundary: str = "p p p"
    setup: str = ""  # before the box is made
    balance: str = ""  # after
    runs: tuple[str, ...] = ("zero", "nve", "npt", "minimize")
    ids: tuple[int, ...] = field(default=())  # of the atoms; 1, 2, … unless given
    overlay: bool = False  # with a second pair style, a Lennard-Jones potential, that adds to the first


def rattled(atoms: Atoms, amount: float = 0.08, seed: int = 3) -> Atoms:
    atoms.rattle(amount, seed=seed)
    return atoms


def systems() -> dict[str, System]:
    salt = rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (2, 2, 2))
    slab = fcc111("Cu", (3, 4, 3), a=3.7, orthogonal=True)
    slab.cell[2, 2] = slab.positions[:, 2].max() + 20.0
    slab.positions[:, 2] += 8.0
    slab.pbc = (True, True, False)
    ethanol = molecule("CH3CH2OH")
    ethanol.cell = [14.0, 14.0, 14.0]
    ethanol.center()
    skewed = rattled(bulk("Cu", a=3.7) * (3, 3, 3))
    skewed.set_cell([[7.8, 0, 0], [3.1, 7.4, 0], [-2.9, 2.7, 7.9]], scale_atoms=True)
    skewed.numbers[::4] = 8
    corner = rattled(bulk("Cu", a=3.7, cubic=True) * (2, 2, 2))
    corner.set_cell([40.0, 7.4, 7.4])
    oxide = rattled(bulk("NaCl", "rocksalt", a=5.4, cubic=True) * (2, 2, 1))
    order = tuple(int(k) for k in np.random.default_rng(5).permutation(len(oxide)) * 3 + 7)
    alone = {"runs": ("zero", "nve", "minimize")}
    return {
        "bulk": System(salt, ("Na", "Cl")),
        "slab": System(rattled(slab), ("Cu",), boundary="p p s", **alone),
        "molecule": System(ethanol, ("H", "C", "O"), boundary="s s s", **alone),
        "triclinic": System(skewed, ("O", "Cu")),
        "four atoms": System(rattled(bulk("Cu", a=3.6, cubic=True)), ("Cu",)),
        "empty rank": System(corner, ("Cu",), setup="processors * 1 1", **alone),
        "permuted types": System(oxide, ("U", "Cl", "H", "Na"), ids=order),
        "hybrid overlay": System(salt, ("Na", "Cl"), overlay=True),
        "tiled balance": System(
            replace_element(corner.copy(), "O"),
            ("Cu", "O"),
            setup="comm_style tiled",
            balance="balance 1.0 rcb\nfix rebalance all balance 20 1.0 rcb",
            **alone,
        ),
    }


def replace_element(atoms: Atoms, symbol: str) -> Atoms:
    atoms.symbols[::3] = symbol
    return atoms


#: Commands of a run; a frame is written every `EVERY` steps.
EVERY = 20
RUNS = {
    "zero": "run 0",
    "nve": "velocity all create 300.0 4711 mom yes rot no loop geom\nfix move all nve\nrun {steps}\nunfix move",
    "npt": "fix move all npt temp 300.0 300.0 0.05 {cell} 0.0 0.0 0.5\nrun {steps}\nunfix move",
    "minimize": "min_style cg\nminimize 0.0 1.0e-3 20 60",
}


def write_system(system: System, folder: Path) -> None:
    atoms = system.atoms
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = atoms.cell.array
    lines = ["written by lammps_matrix.py", "", f"{len(atoms)} atoms", f"{len(system.elements)} atom types"]
    lines += [f"0 {length:.17g} {axis}lo {axis}hi" for axis, length in zip("xyz", (lx, ly, lz), strict=True)]
    if any(abs(tilt) > 0 for tilt in (xy, xz, yz)):
        lines.append(f"{xy:.17g} {xz:.17g} {yz:.17g} xy xz yz")
    lines += ["", "Masses", ""]
    masses = [atomic_masses[Atoms(element).numbers[0]] for element in system.elements]
    lines += [f"{kind} {mass:.10g}" for kind, mass in enumerate(masses, start=1)]
    lines += ["", "Atoms # atomic", ""]
    ids = system.ids or range(1, len(atoms) + 1)
    for tag, symbol, (x, y, z) in zip(ids, atoms.symbols, atoms.positions, strict=True):
        lines.append(f"{tag} {system.elements.index(symbol) + 1} {x:.17g} {y:.17g} {z:.17g}")
    (folder / "atoms.data").write_text("\n".join([*lines, ""]))


def _output() -> str:
    return f"""
compute e all pe/atom
compute p all pressure NULL virial
compute s all stress/atom NULL virial
thermo_style custom step pe vol c_p[1] c_p[2] c_p[3] c_p[4] c_p[5] c_p[6] temp
thermo_modify format float %.17g norm no lost error
thermo {EVERY}
timestep 0.0005
"""


#: eV, Å, Å: of all pairs, cut off without a shift.
LENNARD_JONES = (0.003, 2.6, 5.0)


def overlaid(lines: str) -> str:
    """The lines of a potential, with Lennard-Jones on top."""
    epsilon, sigma, cutoff = LENNARD_JONES
    style = next(line for line in lines.splitlines() if line.startswith("pair_style")).split()[1]
    lines = lines.replace(f"pair_style {style}", f"pair_style hybrid/overlay lj/cut {cutoff} {style}")
    return lines.replace("pair_coeff * * ", f"pair_coeff * * lj/cut {epsilon} {sigma}\npair_coeff * * {style} ")


def lennard_jones(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies of atoms (eV), forces (eV/Å) and virial (eV) of the second pair style."""
    epsilon, sigma, cutoff = LENNARD_JONES
    i, r, vectors = neighbor_list("idD", atoms, cutoff)
    energies, forces = np.zeros(len(atoms)), np.zeros((len(atoms), 3))
    sixth = (sigma / r) ** 6
    np.add.at(energies, i, 2.0 * epsilon * (sixth**2 - sixth))
    on_i = -(24.0 * epsilon * (2.0 * sixth**2 - sixth) / r**2)[:, None] * vectors
    np.add.at(forces, i, on_i)
    return energies, forces, -0.5 * vectors.T @ on_i


def write_decks(
    system: System, folder: Path, lines: Lines, *, steps: int, runs: tuple[str, ...] | None = None
) -> list[Path]:
    """Decks of all runs of a system: everything from the data file, and the continuation from a restart file."""
    write_system(system, folder)
    header = f"units metal\natom_style atomic\natom_modify map array\nboundary {system.boundary}\n{system.setup}\n"
    style = lines(system.elements)
    potential = f"{overlaid(style) if system.overlay else style}\nneighbor 1.0 bin\n"
    cell = "tri" if np.abs(np.tril(system.atoms.cell.array, -1)).max() > 0 else "iso"
    parts = [f"log setup.log\n{header}read_data atoms.data\n{potential}{system.balance}\n{_output()}"]
    for name in runs or system.runs:
        commands = RUNS[name].format(steps=steps, cell=cell)
        parts.append(f"log {name}.log\n{_dump(name)}\n{commands}\nundump frames\n")
    parts.append("log first.log\nwrite_restart state.restart\n" + _dump("first") + "\nrun 0\nundump frames\n")
    again = (
        f"log setup2.log\n{header}read_restart state.restart\n{potential}{system.balance}\n{_output()}\n"
        f"log again.log\n{_dump('again')}\nfix move all nve\nrun {EVERY}\nundump frames\n"
    )
    decks = []
    for name, text in (("in.runs", "".join(parts)), ("in.restart", again)):
        (folder / name).write_text(text)
        decks.append(folder / name)
    return decks


def _dump(name: str) -> str:
    columns = "id type x y z fx fy fz c_e " + " ".join(f"c_s[{k}]" for k in range(1, 7))
    return (
        f"dump frames all custom {EVERY} {name}.dump {columns}\ndump_modify frames first yes sort id format float %.17g"
    )


class Frame(NamedTuple):
    step: int
    atoms: Atoms
    forces: np.ndarray
    energies: np.ndarray
    stresses: np.ndarray  # (N, 6) bar·Å³


def read_dump(path: Path, system: System) -> list[Frame]:
    frames = []
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if line != "ITEM: TIMESTEP":
            continue
        step = int(next(lines))
        next(lines)
        count = int(next(lines))
        assert next(lines).startswith("ITEM: BOX BOUNDS")
        bounds = np.array([[float(word) for word in next(lines).split()] for _ in range(3)])
        xy, xz, yz = bounds[:, 2] if bounds.shape[1] == 3 else (0.0, 0.0, 0.0)
        low = bounds[:, 0] - [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
        high = bounds[:, 1] - [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
        lx, ly, lz = high - low
        next(lines)
        rows = np.array([[float(word) for word in next(lines).split()] for _ in range(count)])
        symbols = [system.elements[int(kind) - 1] for kind in rows[:, 1]]
        periodic = [word == "p" for word in system.boundary.split()]
        atoms = Atoms(symbols, rows[:, 2:5], cell=[[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]], pbc=periodic)
        frames.append(Frame(step, atoms, rows[:, 5:8], rows[:, 8], rows[:, 9:15]))
    return frames


def read_log(path: Path) -> dict[int, np.ndarray]:
    """Columns of the thermodynamic output by step."""
    rows = {}
    inside = False
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:2] == ["Step", "PotEng"]:
            inside = True
        elif words[:2] == ["Loop", "time"]:
            inside = False
        elif inside and words and words[0].isdigit():
            rows[int(words[0])] = np.array([float(word) for word in words[1:]])
    return rows


@dataclass(frozen=True)
class Errors:
    """Largest differences to the evaluation of whole frames."""

    energy: float = 0.0  # eV/atom
    force: float = 0.0  # eV/Å
    virial: float = 0.0  # relative
    atomic: float = 0.0  # eV, of the energy of an atom
    frames: int = 0

    def worst(self, other: "Errors") -> "Errors":
        largest = {
            name: max(getattr(self, name), getattr(other, name)) for name in ("energy", "force", "virial", "atomic")
        }
        return replace(self, **largest, frames=self.frames + other.frames)

    def check(self) -> None:
        assert self.energy <= ENERGY, self
        assert self.atomic <= 10 * ENERGY, self
        assert self.force <= FORCE, self
        assert self.virial <= VIRIAL, self


def compare(potential: Potential, system: System, dump: Path, log: Path, *, head: str = HEAD) -> Errors:
    """Every frame of a dump against :func:`evaluate`; thermodynamic output against it where it has the same step."""
    found = Errors()
    thermo = read_log(log)
    for frame in read_dump(dump, system):
        prediction = evaluate(potential, build_graph(frame.atoms, cutoff=potential.cutoff), head=head)
        n_atoms = len(frame.atoms)
        energies = prediction.energies.numpy() - potential.references[head].values[frame.atoms.numbers]
        forces, virial = prediction.forces.numpy(), prediction.virial[0].numpy()
        total = float(prediction.interaction_energy[0])
        if system.overlay:
            more = lennard_jones(frame.atoms)
            energies, forces, virial, total = (
                energies + more[0],
                forces + more[1],
                virial + more[2],
                total + more[0].sum(),
            )
        expected = np.array([virial[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))])
        scale = np.abs(expected).max()
        atomic = np.abs(frame.energies - energies).max()
        per_atom = -frame.stresses.sum(axis=0) / NKTV2P
        errors = Errors(
            energy=abs(frame.energies.sum() - total) / n_atoms,
            force=float(np.abs(frame.forces - forces).max()),
            virial=float(np.abs(per_atom - expected).max() / scale),
            # Energies of atoms include references of 1e4 eV in `evaluate`: only so many digits are left.
            atomic=max(atomic - 1e-10, 0.0),
            frames=1,
        )
        if frame.step in thermo:
            row = thermo[frame.step]
            pressures = row[2:8] * row[1] / NKTV2P
            errors = errors.worst(
                Errors(
                    energy=abs(row[0] - total) / n_atoms,
                    virial=float(np.abs(pressures - expected).max() / scale),
                )
            )
        found = found.worst(errors)
    return found


def compare_runs(
    potential: Potential, system: System, folder: Path, *, runs: tuple[str, ...] | None = None
) -> dict[str, Errors]:
    """Errors of every run of a system, and whether a restart continued from where it was."""
    names = (*(runs or system.runs), "first", "again")
    found = {name: compare(potential, system, folder / f"{name}.dump", folder / f"{name}.log") for name in names}
    last, first = (read_dump(folder / f"{name}.dump", system) for name in ("first", "again"))
    np.testing.assert_allclose(first[0].atoms.positions, last[-1].atoms.positions, rtol=0, atol=1e-12)
    np.testing.assert_allclose(first[0].forces, last[-1].forces, rtol=0, atol=FORCE)
    return found


def log_worst(way: str, processes: int, results: Iterable[dict[str, Errors]]) -> None:
    """Largest errors of each run over all systems: `pytest --log-cli-level=INFO` shows them."""
    by_run: dict[str, list[Errors]] = {}
    for runs in results:
        for run, errors in runs.items():
            by_run.setdefault({"first": "restart", "again": "restart"}.get(run, run), []).append(errors)
    for run, found in by_run.items():
        worst = reduce(Errors.worst, found)
        logger.info(
            "%s, %d processes, %-8s: %4d frames, energy %.1e eV/atom, forces %.1e eV/Å, virial %.1e",
            *(way, processes, run, worst.frames, worst.energy, worst.force, worst.virial),
        )
