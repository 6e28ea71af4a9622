"""The suite ``nve``: what conserves passes in short runs, what does not is caught far below 1 meV/atom/ps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT

from hydrapot.validation.domain import Domain
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.suite import Tier
from hydrapot.validation.suites import nve
from hydrapot.validation.suites.nve import SUITE, slope_limit
from tests.crystal_helpers import Altered, context_of, not_a_number, raises

SLOPE, RATIO = "shadow energy slope", "fluctuation ratio"


def context(factory=EMT, **settings):
    return context_of(factory, tier=Tier.SMOKE, **settings)


def limited(outcome, name):
    return [m for m in outcome.metrics if m.name == name and m.verdict is not None]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Eight atoms and short runs: some seconds become one."""
    plan = replace(nve.PLANS[Tier.SMOKE], steps=160, max_steps=320, snapshots=2, equilibration=60.0, stretch=30.0)
    monkeypatch.setitem(nve.PLANS, Tier.SMOKE, plan)
    monkeypatch.setattr("hydrapot.validation.suite.MAX_ATOMS", {Tier.SMOKE: 8})


def curl(strength):
    """Forces that are not a gradient: a swirl with the period of the cell."""

    def change(results, atoms):
        x = 2.0 * np.pi * atoms.get_scaled_positions(wrap=False)
        results["forces"] += strength * np.cross(np.sin(x), [0.0, 0.0, 1.0])

    return lambda: Altered(change)


def test_the_limit_follows_the_use():
    """10 K/ns at constant energy; 1 K within thermostat and phonons otherwise; sharp in either case."""
    heating = 3.0 * 8.617333e-2 * 10.0 / 1000.0  # meV/K · K/ps
    assert slope_limit(Domain(ensemble="nve")) == pytest.approx(heating, rel=1e-5)
    nvt = slope_limit(Domain(ensemble="nvt", thermostat_time=100.0))
    assert nvt == pytest.approx(3.0 * 8.617333e-2 / 10.1, rel=1e-5)
    assert slope_limit(Domain(ensemble="npt", thermostat_time=5000.0)) < nvt < 0.03


def test_a_control_passes_with_three_steps_and_two_seeds():
    outcome = SUITE.run(context())
    assert outcome.verdict is Verdict.PASS, outcome.metrics
    slopes = limited(outcome, SLOPE)
    assert len(slopes) == 4
    assert all(m.interval[1] - m.interval[0] < 1e-3 for m in slopes)  # resolved far below the limit
    assert len([m for m in outcome.metrics if m.name == f"{SLOPE} at twice the step"]) == 2
    (ratio,) = limited(outcome, RATIO)
    assert ratio.value == pytest.approx(4.0, abs=0.2)
    assert [len(f.series) for f in outcome.figures] == [3, 3]


@pytest.mark.parametrize("strength", [1e-2, 1e-3])
def test_a_small_curl_fails(strength):
    """1 meV/Å, a hundredth of usual forces, heats by less than 1 meV/atom/ps: that gate would let it pass."""
    outcome = SUITE.run(context(curl(strength)))
    assert outcome.verdict is Verdict.FAIL
    slopes = limited(outcome, SLOPE)
    assert Verdict.FAIL in {m.verdict for m in slopes}
    if strength < 1e-2:
        assert max(abs(m.value) for m in slopes) < 1.0


def test_noise_of_the_forces_fails():
    rng = np.random.default_rng(0)

    def change(results, _atoms):
        results["forces"] += 2e-3 * rng.normal(size=results["forces"].shape)

    assert SUITE.run(context(lambda: Altered(change))).verdict is Verdict.FAIL


def test_a_jump_of_the_energy_fails():
    """What a neighbor that leaves a sharp cutoff does: the energy steps, the forces do not know."""

    def change(results, atoms):
        distances = atoms.get_all_distances(mic=True)
        results["energy"] += 1e-3 * int((distances[np.triu_indices(len(atoms), 1)] < 2.56).sum())

    outcome = SUITE.run(context(lambda: Altered(change)))
    assert outcome.verdict is Verdict.FAIL


@pytest.mark.parametrize(("change", "word"), [(not_a_number, "not finite"), (raises, "KeyError")])
def test_a_potential_that_fails_is_a_failed_metric(change, word):
    outcome = SUITE.run(context(lambda: Altered(change)))
    assert outcome.verdict is Verdict.FAIL
    assert {m.verdict for m in limited(outcome, SLOPE)} == {Verdict.FAIL}
    assert all(word in m.detail for m in limited(outcome, SLOPE))


def test_an_explosion_is_stopped_and_named():
    def change(results, atoms):
        results["forces"] += 10.0 * atoms.get_velocities()  # friction with the wrong sign

    outcome = SUITE.run(context(lambda: Altered(change)))
    assert outcome.verdict is Verdict.FAIL
    assert any("temperature rose" in m.detail for m in outcome.metrics), outcome.metrics


def test_single_precision_is_no_defect():
    """Energies and forces rounded to float32: slopes stay resolved, a ratio that drowns is not judged."""

    def change(results, _atoms):
        results["energy"] = float(np.float32(results["energy"] + 100.0))
        results["forces"][:] = results["forces"].astype(np.float32)

    made = context(lambda: Altered(change))
    made.subject.resolution = 1.2e-7
    outcome = SUITE.run(made)
    assert outcome.verdict is Verdict.PASS, [m for m in outcome.metrics if m.verdict is Verdict.FAIL]


def test_a_coarse_potential_does_not_excuse_itself(monkeypatch):
    """Forces in bfloat16: its own resolution must not turn the ratio off."""
    monkeypatch.setitem(nve.PLANS, Tier.SMOKE, replace(nve.PLANS[Tier.SMOKE], snapshots=8))

    def change(results, _atoms):
        results["forces"][:] = torch.tensor(results["forces"]).to(torch.bfloat16).double().numpy()

    made = context(lambda: Altered(change))
    made.subject.resolution = 4e-3
    (ratio,) = limited(SUITE.run(made), RATIO)
    assert ratio.verdict in {Verdict.FAIL, Verdict.INCONCLUSIVE}  # not N-A for drowning in its own rounding


def test_the_domain_can_set_the_limit():
    strict = SUITE.run(context(limits={"nve/shadow energy slope": 1e-12}))
    assert Verdict.PASS not in {m.verdict for m in limited(strict, SLOPE)}


def test_a_finished_suite_is_not_run_again(tmp_path):
    made = []

    def factory():
        made.append(Altered(lambda _results, _atoms: None))
        return made[-1]

    first = SUITE.run(context(factory, folder=tmp_path))
    assert made[-1].evaluations > 100
    again = SUITE.run(context(factory, folder=tmp_path))
    assert made[-1].evaluations == 0
    assert again.as_dict() == first.as_dict()


def test_the_estimate_of_the_work_is_right_within_a_factor_of_two():
    made = []

    def factory():
        made.append(Altered(lambda _results, _atoms: None))
        return made[-1]

    ready = context(factory)
    SUITE.run(ready)
    assert 0.5 < SUITE.evaluations(ready) / (8 * made[-1].evaluations) < 2.0
