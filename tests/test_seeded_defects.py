"""Each static suite catches the defects that it is for, at a strength that matters, and lets sound potentials pass."""

from importlib import import_module

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from hydrapot.potential import load, shipped_models
from hydrapot.validation.domain import Domain, StructureSource
from hydrapot.validation.metrics import Metric, Verdict
from hydrapot.validation.subject import CalculatorSubject, CheckpointSubject
from hydrapot.validation.suite import Context, Tier
from hydrapot.validation.suites import walls
from tests.seeded_defects import CUTOFF, DEFECTS, Noise, PairPotential, Sound

COPPER = Domain(elements=("Cu",), structures=(StructureSource(name="Cu", crystal="fcc", formula="Cu", a=3.6),))
STATIC = ("contract", "gradient", "jacobian", "symmetry", "cutoff", "size", "walls")
SHIPPED = "hydrapot-s"


def context(factory, *, cutoff=CUTOFF, elements=("Cu",), domain=COPPER, seed=0):
    subject = CalculatorSubject(
        factory,
        name="defect",
        elements=elements,
        cutoff=cutoff,
        receptive_field=2 * cutoff,
        resolution=np.finfo(float).eps,
    )
    return Context(subject, domain, tier=Tier.SMOKE, seeds=(seed,))


def outcome(ctx, suite):
    return import_module(f"hydrapot.validation.suites.{suite}").SUITE.run(ctx)


def failed(ctx, suite):
    bad = {Verdict.FAIL, Verdict.INCONCLUSIVE}
    return {m.name: m for m in outcome(ctx, suite).metrics if m.verdict in bad}


# Suite and metric for a defect; the index says which of its strengths is the weakest that has to be caught.
WEAKEST = {
    "truncated cutoff": (2, "cutoff", "energy jump"),
    "neighbor cap": (2, "cutoff", "force jump"),
    "stale neighbors": (2, "contract", "history"),
    "hole in the wall": (1, "walls", "dimers whose force flips"),
    "small curl": (1, "jacobian", "antisymmetric part"),
    "direct forces": (1, "jacobian", "antisymmetric part"),
    "stress sign": (2, "gradient", "stress"),
    "half of the virial": (2, "gradient", "stress"),
    "forces zeroed": (2, "gradient", "force along a direction"),
    "one force zeroed": (2, "contract", "net force"),
    "forces of another head": (2, "gradient", "force along a direction"),
    "wrong first call": (2, "contract", "first call"),
    "bfloat16 forces": (2, "gradient", "force along a direction"),
    "coarse energy": (2, "gradient", "force along a direction"),
    "non-extensive readout": (2, "size", "extensivity"),
    "preferred axis": (1, "symmetry", "rotation"),
    "noise": (2, "contract", "repeated call"),
}


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("which", [pytest.param("strongest", marks=pytest.mark.slow), "weakest"])
def test_a_defect_is_caught_by_its_suite(name, which):
    weakest, suite, metric = WEAKEST[name]
    defect = DEFECTS[name]
    strength = defect.strengths[0 if which == "strongest" else weakest]
    found = failed(context(lambda: defect.make(strength), cutoff=defect.cutoff), suite)
    if which == "strongest":
        assert found, f"{name} at {strength:g} {defect.unit} passes the suite {suite}"
    else:
        assert metric in found, f"{name} at {strength:g} {defect.unit}: only {sorted(found)}"


@pytest.mark.parametrize("suite", STATIC)
def test_a_sound_potential_passes(suite):
    found = failed(context(PairPotential), suite)
    assert found == {}
    passed = [m for m in outcome(context(PairPotential), suite).metrics if m.verdict is Verdict.PASS]
    assert passed


@pytest.mark.parametrize("suite", [s for s in STATIC if s != "cutoff"])
def test_emt_passes_all_but_its_cutoff(suite):
    assert failed(context(lambda: Sound(0.0), cutoff=5.9), suite) == {}


def test_the_jumps_of_emt_and_plain_lennard_jones_are_found():
    """EMT's Fermi function ends at 1e-4 of its height, a plain Lennard-Jones with a force of 24ε/σ (σ/rc)⁷: true properties."""
    jump = failed(context(EMT, cutoff=5.9), "cutoff")["energy jump"]
    dimer = bulk("Cu")[:1] + bulk("Cu")[:1]
    dimer.pbc = False
    dimer.calc = EMT()
    outer = []
    for distance in (5.8766, 5.8770):
        dimer.positions[1] = [distance, 0, 0]
        outer.append(dimer.get_potential_energy())
    assert jump.value == pytest.approx(abs(outer[1] - outer[0]), rel=0.1)
    plain = failed(context(lambda: LennardJones(sigma=2.3, epsilon=0.4, rc=6.0)), "cutoff")
    x = 2.3 / 6.0
    assert plain["force jump"].value == pytest.approx(24 * 0.4 / 6.0 * (x**6 - 2 * x**12), rel=0.3)


class Picky(Calculator):
    """Knows crystals only, as some networks do."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        if len(self.atoms) < 4 and not self.atoms.pbc.all():
            raise RuntimeError("isolated atoms are not supported")
        copy = self.atoms.copy()
        copy.calc = PairPotential()
        self.results = {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}
        if copy.pbc.all():
            self.results["stress"] = copy.get_stress()


@pytest.mark.parametrize("suite", ["contract", "cutoff", "walls"])
def test_refusing_lone_atoms_is_no_failure(suite):
    found = outcome(context(Picky), suite)
    assert found.verdict is Verdict.PASS
    refused = [m for m in found.metrics if m.verdict is Verdict.NOT_APPLICABLE]
    assert any("isolated atoms are not supported" in m.detail for m in refused)


class Dead(Picky):
    def calculate(self, *_arguments, **_options):
        raise RuntimeError("out of order")


class NotANumber(PairPotential):
    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = np.nan
        self.results["forces"] = self.results["forces"] * np.nan


@pytest.mark.parametrize("broken", [Dead, NotANumber])
@pytest.mark.parametrize("suite", ["contract", "gradient", "jacobian", "symmetry", "size", "walls"])
def test_a_legal_structure_without_an_answer_fails(suite, broken):
    assert outcome(context(broken), suite).verdict is Verdict.FAIL


def test_rounding_widens_limits_up_to_a_cap():
    """Single precision passes where its rounding is known; forces in bfloat16 do not, however coarse they call themselves."""

    def single():
        calculator = Sound(0.0, inner=PairPotential)
        calculator.falsify = lambda _atoms, results: results.update(
            forces=results["forces"].astype(np.float32).astype(float), energy=float(np.float32(results["energy"]))
        )
        return calculator

    def coarse():
        return DEFECTS["bfloat16 forces"].make(1.0)

    for factory, resolution, expected in ((single, 1e-7, False), (coarse, 4e-3, True)):
        ctx = context(factory)
        ctx.subject.resolution = resolution
        bad = {suite: failed(ctx, suite) for suite in ("gradient", "jacobian")}
        assert any(bad.values()) is expected, bad
    ctx = context(lambda: Noise(1e-3, inner=PairPotential))
    ctx.subject.resolution = 1.0
    assert "repeated call" in failed(ctx, "contract")


def curve(energies, distances):
    return walls.wall("X2", distances, energies, -np.gradient(energies, distances), close=0.5)


def test_holes_of_a_wall_are_counted():
    distances = np.linspace(1.2, 0.3, 31)
    well = np.exp(-8 * (distances - 0.9)) - 2 * np.exp(-4 * (distances - 0.9))
    sound = curve(well, distances)
    assert (sound.flips, sound.attracts) == (0, False)
    holed = curve(well - 10 * np.exp(-(((distances - 0.6) / 0.04) ** 2)), distances)
    assert holed.flips == 2
    assert 0 < holed.barrier < 10
    assert curve(-well, distances).attracts
    assert curve(well * np.nan, distances).attracts


@pytest.mark.skipif(SHIPPED not in shipped_models(), reason=f"{SHIPPED} is not in this checkout")
@pytest.mark.parametrize("suite", ["contract", "gradient", "jacobian", "symmetry", "cutoff", "size"])
def test_the_shipped_checkpoint_passes(suite):
    """Walls are not among them: they are a finding about a head, not about the validator."""
    head = "mvl_snap_Cu"
    assert head in load(SHIPPED).heads
    ctx = Context(CheckpointSubject(SHIPPED, head=head), COPPER, tier=Tier.SMOKE, seeds=(0,))
    found = outcome(ctx, suite)
    assert [m for m in found.metrics if m.verdict in {Verdict.FAIL, Verdict.INCONCLUSIVE}] == []
    if suite in {"contract", "gradient", "symmetry"}:
        assert any("ASE f32" in m.subject for m in found.metrics)  # what is deployed, too


def test_limits_of_the_domain_count():
    domain = COPPER.model_copy(update={"limits": {"walls/height of the wall": 1e6}})
    assert set(failed(context(PairPotential, domain=domain), "walls")) == {"height of the wall"}
    assert isinstance(failed(context(PairPotential, domain=domain), "walls")["height of the wall"], Metric)
