"""The decks in examples/lammps run as they are, small, and give what they say."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from hydrapot.potential import build_graph, evaluate, load
from tests.mpi_helpers import ROOT
from tests.pair_style_helpers import lmp, needs_pair_style, plugin

pytestmark = needs_pair_style

EXAMPLES = ROOT / "examples" / "lammps"
#: What is said on the command line of each.
SIZES = {
    "in.melt": {"n": 3, "steps": 200},
    "in.npt": {"n": 2, "steps": 200},
    "in.deposition": {"n": 3, "layers": 3, "atoms": 1, "every": 250},
    "in.elastic": {"n": 1},
}


@pytest.fixture(scope="session")
def plugins(tmp_path_factory) -> Path:
    return plugin(tmp_path_factory).parent


def run(name: str, folder: Path, plugins: Path, *, processes: int = 1) -> str:
    deck = folder / name
    deck.write_text((EXAMPLES / name).read_text())
    words = [word for key, value in SIZES[name].items() for word in ("-var", key, str(value))]
    done = lmp(deck, plugins, processes=processes, arguments=tuple(words))
    # The cell is one of the variables of box/relax, as it should be.
    warnings = [line for line in done.stdout.splitlines() if "WARNING" in line and "extra global DOFs" not in line]
    assert not warnings
    return done.stdout


def columns(output: str, *names: str) -> np.ndarray:
    """Thermodynamic output of the last run."""
    lines = output.splitlines()
    (header, *_) = [k for k, line in reversed(list(enumerate(lines))) if line.split()[:1] == ["Step"]]
    words = lines[header].split()
    rows = []
    for line in lines[header + 1 :]:
        if line.startswith("Loop"):
            break
        if line.split()[0].isdigit():
            rows.append([float(word) for word in line.split()])
    return np.array(rows)[:, [words.index(name) for name in names]].T


def test_every_deck_is_run_here():
    assert {path.name for path in EXAMPLES.iterdir()} == set(SIZES)


def test_melt_conserves_energy(plugins, tmp_path):
    temperature, total = columns(run("in.melt", tmp_path, plugins, processes=2), "Temp", "TotEng")
    assert len(total) > 90
    assert temperature[0] == pytest.approx(3000)
    assert temperature.min() < 2000  # half of it has become potential energy
    assert np.ptp(total) / 108 < 1e-3
    distances = np.loadtxt(tmp_path / "rdf.dat", comments="#", skiprows=4, max_rows=60)
    assert distances[:, 2].max() > 1.5
    assert distances[distances[:, 1] < 1.5, 2].max() == 0


def test_constant_pressure_runs_give_a_lattice_constant(plugins, tmp_path):
    output = run("in.npt", tmp_path, plugins)
    (found,) = re.findall(r"^a = ([\d.]+) A at ([\d.]+) K and (-?[\d.]+) bar$", output, flags=re.MULTILINE)
    assert 4.0 < float(found[0]) < 4.3
    assert 100 < float(found[1]) < 700


def test_deposited_atoms_reach_the_surface(plugins, tmp_path):
    output = run("in.deposition", tmp_path, plugins, processes=2)
    (atoms,) = columns(output, "Atoms")
    assert atoms[-1] - atoms[0] == 1
    last = (tmp_path / "deposition.dump").read_text().rpartition("ITEM: ATOMS")[2].splitlines()[1:]
    heights = sorted(float(line.split()[4]) for line in last)
    surface = 2.5 * 3.64
    assert heights[-1] < surface + 4.0
    assert heights[-1] > surface + 0.5


def test_elastic_constants_are_those_of_the_potential(plugins, tmp_path):
    output = run("in.elastic", tmp_path, plugins)
    found = {key: float(value) for key, value in re.findall(r"^(\w+) += ([\d.]+) (?:A|GPa)$", output, re.MULTILINE)}
    potential = load("hydrapot-s")

    def stress(strain: np.ndarray) -> np.ndarray:
        atoms = bulk("Cu", a=found["a"], cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        graph = build_graph(atoms, cutoff=potential.cutoff)
        return evaluate(potential, graph, head="mvl_snap_Cu").stress[0].numpy() * 160.21766

    def derivative(row: int, column: int) -> np.ndarray:
        strain = np.zeros((3, 3))
        strain[row, column] = 1e-3
        return (stress(strain) - stress(-strain)) / 2e-3

    assert np.abs(stress(np.zeros((3, 3)))).max() < 0.01
    assert found["C11"] == pytest.approx(derivative(0, 0)[0, 0], abs=0.05)
    assert found["C12"] == pytest.approx(derivative(0, 0)[1, 1], abs=0.05)
    assert found["C44"] == pytest.approx(derivative(1, 0)[0, 1], abs=0.05)
