"""A results document with every suite, all of whose metrics pass, to be spoiled by tests."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace

import pytest

from hydrapot.cli.main import app_main
from hydrapot.validation.document import Document, Environment, Settings, SubjectRecord, SuiteRecord, overall
from hydrapot.validation.domain import Domain
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series
from hydrapot.validation.suites.precision import USES

CLASS_A = (
    "contract", "gradient", "jacobian", "symmetry", "cutoff", "size", "walls", "nve", "md", "precision", "parity",
)  # fmt: skip
CLASS_B = (
    "relaxation", "eos", "elastic", "phonons", "vacancy", "surface", "adsorption", "barrier", "softening", "held_out",
    "uncertainty",
)  # fmt: skip
PBE = "PBE (VASP)"


def sound(suite):
    """Metrics of a suite that pass and leave no gap for any use."""
    metrics = {
        "gradient": [_at_most("force along a direction"), _at_most("stress")],
        "nve": [Metric("shadow energy slope", "MgO, seed 0", 1e-4, "meV/atom/ps", -0.026, 0.026, (-1e-4, 3e-4))],
        "md": [_at_most("failed runs"), Metric("density after compression", "MgO", 1.002, "1", 0.9, 1.1)],
        "precision": [replace(_at_most(f"allowed: {use}"), precision="f32") for use in USES],
        "parity": [_at_most(name, subject="lammps, triclinic, 2 ranks") for name in ("energy", "forces", "stress")],
        "eos": [_at_most("bulk modulus"), _against_pbe("Δ")],
        "elastic": [_against_pbe("error of the elastic constants")],
        "phonons": [_against_pbe("frequency error")],
        "vacancy": [_against_pbe("formation energy error")],
        "barrier": [_against_pbe("barrier error")],
        "held_out": [_against_pbe("relative force error"), _against_pbe("energy MAE")],
        "softening": [_against_pbe("force slope, large forces")],
    }
    line = Series("potential", [0.0, 1.0, 2.0], [1.0, float("nan"), 3.0])
    figure = Figure(f"Curve of {suite}", "x / Å", "y / eV", [line, Series("limit", [0, 2], [5, 5], "limit")])
    return Outcome(metrics.get(suite, [_at_most("residual")]), [figure], ["A note."])


def _at_most(name, *, subject="MgO"):
    return Metric(name, subject, 0.25, "eV/Å", upper=1.0)


def _against_pbe(name):
    return replace(_at_most(name), level_of_theory=PBE)


def sound_outcomes():
    return {name: sound(name) for name in (*CLASS_A, *CLASS_B)}


def make_document(
    outcomes: Mapping[str, Outcome | str] | None = None, *, name="hydrapot-s", domain=None, **settings
) -> Document:
    """A document; in `outcomes` text in place of an outcome says why a suite was not run."""
    given = sound_outcomes() if outcomes is None else outcomes
    records = [
        SuiteRecord(
            name=suite,
            title=suite.capitalize(),
            purpose="what it prevents",
            category="A" if suite in CLASS_A else "B",
            verdict=found.verdict.value if isinstance(found, Outcome) else "N-A",
            outcome=found.as_dict() if isinstance(found, Outcome) else None,
            reason="" if isinstance(found, Outcome) else found,
            seconds=1.5,
        )
        for suite, found in given.items()
    ]
    domain = domain or Domain(name="oxides", pressure=(0.0, 5.0))
    settings = {
        "tier": "standard",
        "precisions": ("f64", "f32"),
        "engines": ("ase", "lammps"),
        "seeds": (0,),
    } | settings
    return Document(
        created="2026-01-02T03:04:05+00:00",
        verdict=overall(records),
        subject=SubjectRecord(
            kind="checkpoint", name=name, head="pbe", level_of_theory=PBE, source="hydrapot-s", sha256="ab" * 32,
            elements=("O", "Mg"), cutoff=5.0, receptive_field=15.0, resolution=2e-16,
            precisions=("f64", "f32", "bf16"),
        ),
        settings=Settings(suites=tuple(given), domain=domain.model_dump(mode="json"), **settings),
        environment=Environment(
            platform="Linux", processor="x86", cores=2, workers=2, threads_per_worker=1, python="3.11",
            versions={"hydrapot": "0.1.0"},
        ),
        suites=tuple(records),
        seconds=12.0,
        fingerprint="cd" * 32,
    )  # fmt: skip


def run_cli(capsys, *arguments):
    """Exit code, standard output and standard error of the command line; what it changes globally is set back."""
    logger = logging.getLogger("hydrapot")
    kept = list(logger.handlers), logger.level, logger.propagate, warnings.showwarning
    capsys.readouterr()
    try:
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            app_main([str(argument) for argument in arguments])
    finally:
        logger.handlers[:], logger.level, logger.propagate, warnings.showwarning = kept
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err
