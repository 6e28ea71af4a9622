"""What OpenMM does silently, or by ending the process, does not happen here."""

import logging
import subprocess
import sys

import numpy as np
import pytest

openmm = pytest.importorskip("openmm")

from hydrapot.calculators.openmm import add_to_system, check_system, stored_forces  # noqa: E402
from hydrapot.calculators.openmm_callback import Callback, stored_record  # noqa: E402
from hydrapot.potential import save  # noqa: E402
from hydrapot.potential.errors import CheckpointError, InvalidStructureError, SimulationError  # noqa: E402
from tests.engine_helpers import CRYSTALS, small_potential  # noqa: E402
from tests.openmm_helpers import ETHANOL, SHIPPED, answers, context_of, ethanol, system_of, topology_of  # noqa: E402

# The random weights of the tests claim to be for crystals; here they meet a molecule.
pytestmark = pytest.mark.filterwarnings("ignore:head 'crystals' was trained on structures with 3 periodic directions")


def ethanol_system(**arguments):
    atoms, _ = ethanol()
    system = system_of(atoms)
    made = add_to_system(
        system, topology_of(atoms), **{"model": SHIPPED, "head": ETHANOL, "dtype": "float64", **arguments}
    )
    return atoms, system, made


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "small.safetensors"
    save(small_potential(), path)
    return path


class Stub:
    """An evaluator that gives what it is told to."""

    def __init__(self, record, energy):
        self.record, self.energy = record, energy

    def __call__(self, positions, _box, **_):
        return self.energy, np.zeros_like(positions)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_energy_is_a_python_float(backend):
    """OpenMM takes anything else for −1, as the next test shows."""
    atoms, _, made = ethanol_system(backend=backend)
    energy, forces = made.callback.evaluator(atoms.positions * 0.1, None)
    assert type(energy) is float
    assert forces.dtype == np.float64
    assert forces.flags.c_contiguous


@pytest.mark.parametrize("energy", [np.array([5.0]), "5", None, float("nan"), float("inf"), np.float32(5.0), 5])
def test_what_is_no_finite_float_raises(energy):
    atoms, _, made = ethanol_system()
    record = made.record
    system = system_of(atoms)
    callback = Callback(record.text(), Stub(record, energy))
    system.addForce(openmm.PythonForce(callback))
    with pytest.raises(openmm.OpenMMException, match="not a finite number"):
        answers(context_of(system, atoms.positions))
    assert isinstance(callback.failure, SimulationError)


def test_weights_that_are_not_finite_raise(tmp_path):
    potential = small_potential()
    for parameter in potential.energy_heads.parameters():
        parameter.data.fill_(float("nan"))
    path = tmp_path / "damaged.safetensors"
    save(potential, path)
    for backend in ("native", "torch"):
        atoms, system, made = ethanol_system(model=path, head=CRYSTALS, backend=backend)
        with pytest.raises(openmm.OpenMMException, match="SimulationError"):
            answers(context_of(system, atoms.positions))
        assert isinstance(made.callback.failure, SimulationError)


def test_position_that_is_not_finite_raises():
    atoms, _, made = ethanol_system()
    positions = atoms.positions.copy()
    positions[3, 1] = np.nan
    with pytest.raises(InvalidStructureError, match="atom 3 has a position that is not finite"):
        made.callback.evaluator(positions, None)


def test_exception_keeps_its_type_and_is_logged(caplog):
    """OpenMM keeps the text only, so the text names the type, and the object is at hand."""
    atoms, system, made = ethanol_system()
    positions = atoms.positions.copy()
    positions[1] = positions[0]
    with (
        caplog.at_level(logging.ERROR, "hydrapot"),
        pytest.raises(
            openmm.OpenMMException, match=r"InvalidStructureError: atoms 0 and 1|InvalidStructureError: .*coincide"
        ),
    ):
        answers(context_of(system, positions))
    assert isinstance(made.callback.failure, InvalidStructureError)
    (record,) = caplog.records
    assert record.exc_info[0] is InvalidStructureError
    # A failure is no end: the next structure is evaluated.
    assert np.isfinite(answers(context_of(system, atoms.positions))[0])


def test_force_of_other_particles_is_refused():
    atoms, _, made = ethanol_system()
    system = system_of(atoms[:-1])
    system.addForce(openmm.PythonForce(Callback(made.record.text())))
    with pytest.raises(openmm.OpenMMException, match="for 9 particles and was given 8"):
        answers(context_of(system, atoms.positions[:-1]))


# Serialization ---------------------------------------------------------------------------------------------------------


def test_stored_system_holds_the_hash_and_no_weights_and_evaluates_the_same():
    atoms, system, made = ethanol_system(scale="lambda_ml")
    text = openmm.XmlSerializer.serialize(system)
    assert len(text) < 10_000
    restored = openmm.XmlSerializer.deserialize(text)
    assert stored_forces(restored) == check_system(restored) == [made.record]
    assert openmm.XmlSerializer.serialize(restored) == text  # as often as one likes
    energy, forces = answers(context_of(system, atoms.positions))
    again, forces_again = answers(context_of(restored, atoms.positions))
    assert again == energy
    assert np.array_equal(forces, forces_again)


def test_function_of_somebody_else_has_no_record():
    assert stored_record(b"\x80\x04cbuiltins\nprint\n.") is None


def test_another_model_in_its_place_is_refused(checkpoint):
    atoms, system, _ = ethanol_system(model=checkpoint, head=CRYSTALS)
    text = openmm.XmlSerializer.serialize(system)
    save(small_potential(largest_force=0.6), checkpoint)
    with pytest.raises(CheckpointError, match="is not the model that this force was made with"):
        check_system(openmm.XmlSerializer.deserialize(text))
    context = context_of(openmm.XmlSerializer.deserialize(text), atoms.positions)
    with pytest.raises(
        openmm.OpenMMException, match=r"CheckpointError: .*small.safetensors is not the model that this force"
    ):
        answers(context)


def test_model_that_is_gone_is_named(checkpoint):
    atoms, system, _ = ethanol_system(model=checkpoint, head=CRYSTALS)
    text = openmm.XmlSerializer.serialize(system)
    checkpoint.unlink()
    context = context_of(openmm.XmlSerializer.deserialize(text), atoms.positions)
    with pytest.raises(openmm.OpenMMException, match=r"CheckpointError: .*small.safetensors"):
        answers(context)


def test_record_is_read_whatever_the_path_looks_like(tmp_path):
    """Quotes, braces and letters beyond ASCII are escaped on their way into a stored function."""
    folder = tmp_path / 'it\'s {a} "Möbius" strip'
    folder.mkdir()
    path = folder / "small.safetensors"
    save(small_potential(), path)
    atoms, system, made = ethanol_system(model=path, head=CRYSTALS)
    assert made.record.model == str(path)
    restored = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert check_system(restored) == [made.record]
    assert answers(context_of(restored, atoms.positions))[0] == answers(context_of(system, atoms.positions))[0]


def test_relative_path_is_found_from_elsewhere(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    _, _, made = ethanol_system(model="small.safetensors", head=CRYSTALS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Callback(made.record.text()).evaluator.record.model == str(checkpoint)


def test_restoring_loads_nothing(checkpoint):
    """What could fail fails at the first evaluation, where it can be caught: restoring never raises."""
    _, _, made = ethanol_system(model=checkpoint, head=CRYSTALS)
    function, arguments = made.callback.__reduce__()
    restored = function(*arguments)
    assert isinstance(restored, Callback)
    assert restored._evaluator is None
    checkpoint.unlink()
    with pytest.raises(CheckpointError):
        _ = function(*arguments).evaluator


RESTORE = """
import sys
sys.path[:] = [p for p in sys.path if p]
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == HIDDEN or name.startswith(HIDDEN + "."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
if HIDDEN:
    sys.meta_path.insert(0, Hide())
import openmm
system = openmm.XmlSerializer.deserialize(open("system.xml").read())
assert "torch" not in sys.modules, "restoring imports torch"
copy = openmm.XmlSerializer.clone(system) if not HIDDEN else system
context = openmm.Context(copy, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
context.setPositions([openmm.Vec3(0.1 * k, 0.03 * k * k, 0) for k in range(system.getNumParticles())])
try:
    print("energy", context.getState(energy=True).getPotentialEnergy()._value)
except openmm.OpenMMException as error:
    print("exception", error)
"""


@pytest.mark.parametrize(
    ("hidden", "answer"), [("", "energy"), ("hydrapot", "exception No module named 'hydrapot'"), ("torch", "exception")]
)
def test_restoring_without_the_package_does_not_end_the_process(tmp_path, hidden, answer):
    """OpenMM's C++ dies of an exception in unpickling (a segmentation fault in 8.6)."""
    _, system, _ = ethanol_system()
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    script = f"HIDDEN = {hidden!r}\n{RESTORE}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(answer)


def test_state_and_checkpoint_continue_a_trajectory_exactly(tmp_path):
    atoms, system, _ = ethanol_system()
    text = openmm.XmlSerializer.serialize(system)

    def start(stored):
        integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.0005)
        integrator.setRandomNumberSeed(7)
        return context_of(openmm.XmlSerializer.deserialize(stored), atoms.positions, integrator=integrator)

    def positions(context):
        return np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)

    context = start(text)
    context.setVelocitiesToTemperature(300, 5)
    context.getIntegrator().step(20)
    checkpoint = context.createCheckpoint()
    state = openmm.XmlSerializer.serialize(context.getState(positions=True, velocities=True))
    middle = positions(context)
    context.getIntegrator().step(20)
    end = positions(context)
    other = start(text)
    other.loadCheckpoint(checkpoint)
    other.getIntegrator().step(20)
    assert np.array_equal(positions(other), end)
    third = start(text)
    third.setState(openmm.XmlSerializer.deserialize(state))
    assert positions(third) == pytest.approx(middle, abs=1e-15)


def test_clone_has_its_own_memory():
    """OpenMM clones forces, for collective variables among others; two copies must not share a neighbor list."""
    atoms, system, made = ethanol_system()
    variable = openmm.CustomCVForce("2*E")
    variable.addCollectiveVariable("E", openmm.XmlSerializer.clone(system.getForce(0)))
    other = system_of(atoms)
    other.addForce(variable)
    energy, forces = answers(context_of(system, atoms.positions))
    done = made.callback.evaluator.evaluations
    doubled = answers(context_of(other, atoms.positions))
    assert doubled[0] == pytest.approx(2 * energy, rel=1e-14)
    assert doubled[1] == pytest.approx(2 * forces, abs=1e-9)
    assert made.callback.evaluator.evaluations == done


def test_module_that_openmm_restores_from_imports_the_standard_library_only():
    program = (
        "import sys; import hydrapot.calculators.openmm_callback; "
        "print(sorted({'torch', 'numpy', 'ase', 'openmm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
