"""Training that starts from a trained model, and fine-tuning: what is copied, what is fitted, what is refused."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from ase.io import read, write
from rich.console import Console
from typer.testing import CliRunner

from hydrapot.calculators import HydrapotCalculator
from hydrapot.cli.main import build_app
from hydrapot.potential import load
from hydrapot.potential.errors import CheckpointError, ConfigurationError, UnknownHeadError
from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.config import load_config
from hydrapot.training.data.extxyz import read_extxyz
from hydrapot.training.data.splits import apply, load_manifest
from hydrapot.training.data.store_layout import StoreAttributes
from hydrapot.training.data.store_writer import StoreWriter
from hydrapot.training.finetune import CONFIG_FILE, FinetuneOptions, prepare_finetuning
from hydrapot.training.run import STATE_FILE, TrainResult, train
from hydrapot.training.setup import set_up
from tests.training_helpers import write_datasets

#: eV per atom: the labels of another code, whose zero is elsewhere.
SHIFT = 1234.5


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model (``base.safetensors``), and the labels of copper once more with another zero of energy."""
    folder = tmp_path_factory.mktemp("project")
    write_datasets(folder)
    result = _train(folder, folder / "base", "train.yaml", {"run.steps": 150, "run.validate_every": 150})
    result.checkpoint.rename(folder / "base.safetensors")
    shifted = folder / "shifted"
    shifted.mkdir()
    frames = read(folder / "data" / "copper.extxyz", ":")
    for atoms in frames:
        atoms.calc.results["energy"] += SHIFT * len(atoms)
        atoms.info["dataset"] = "mine"
    write(shifted / "mine.extxyz", frames, format="extxyz")
    return folder


def _train(folder: Path, out: Path, config: str, overrides: dict[str, object], data: Path | None = None) -> TrainResult:
    loaded = load_config(folder / config, overrides=overrides)
    return train(
        loaded,
        data=data or folder / "data",
        manifest_path=(folder / config).parent / loaded.split,
        out=out,
        threads=1,
        cache_dir=folder / "cache",
        console=Console(quiet=True),
    )


def _prepared(project: Path, out: Path, **options: object) -> Path:
    settings = FinetuneOptions(head="copper", functional="EMT", steps=20)._replace(**options)
    return prepare_finetuning(
        str(project / "base.safetensors"), project / "shifted" / "mine.extxyz", out=out, options=settings
    )


def _finetune(project: Path, out: Path, overrides: dict[str, object] | None = None, **options: object) -> TrainResult:
    _prepared(project, out, **options)
    return _train(out, out, CONFIG_FILE, overrides or {}, data=project / "shifted")


def test_another_zero_of_energy_costs_nothing(project: Path, tmp_path: Path) -> None:
    """Before the first step the model predicts the labels as well as the head that it starts from predicted its own."""
    result = _finetune(project, tmp_path / "run", steps=1, learning_rate=1e-9)
    (before,) = result.before.values()
    own = load(str(project / "base.safetensors")).info.heads["copper"].metrics
    # The division differs from that of the base model, so the errors are alike, not equal.
    assert before["force_mae_mev_per_a"] == pytest.approx(own["force_mae_mev_per_a"], rel=0.5)
    assert before["energy_mae_mev_per_atom"] < 3.0 * own["energy_mae_mev_per_atom"] + 5.0
    atoms = read(project / "shifted" / "mine.extxyz", 0)
    label = atoms.get_potential_energy()
    atoms.calc = HydrapotCalculator(str(result.checkpoint), head="mine")
    assert atoms.get_potential_energy() / len(atoms) == pytest.approx(label / len(atoms), abs=0.1)


def test_it_learns_what_the_labels_say(project: Path, tmp_path: Path) -> None:
    result = _finetune(project, tmp_path / "run", steps=150, learning_rate=5e-3)
    (before,), (after,) = result.before.values(), result.metrics.values()
    assert after["force_mae_mev_per_a"] < before["force_mae_mev_per_a"]
    model = load(str(result.checkpoint))
    assert model.heads == ["mine"]
    provenance = model.info.provenance
    assert provenance["start"] == load(str(project / "base.safetensors")).info.content_hash
    assert provenance["config"]["start"]["heads"] == {"mine": "copper"}
    assert model.info.heads["mine"].level_of_theory.functional == "EMT"


@pytest.mark.parametrize("compiled", [False, True])
def test_a_head_alone_leaves_the_encoder_as_it_is(monkeypatch, project: Path, tmp_path: Path, compiled: bool) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    settings = {"run.compile": compiled}
    result = _finetune(project, tmp_path / "run", settings, steps=5, learning_rate=5e-3, encoder=False)
    base, tuned = (load(str(path)) for path in (project / "base.safetensors", result.checkpoint))
    theirs = dict(base.named_parameters())
    for name, parameter in tuned.named_parameters():
        if not name.startswith("energy_heads"):
            assert torch.equal(parameter, theirs[name]), name
    assert not torch.equal(tuned.head("mine").output.weight, base.head("copper").output.weight)


def test_heads_without_a_model_begin_at_random_on_the_features_of_the_start(project: Path, tmp_path: Path) -> None:
    """Two datasets, one mapped: encoder and one head are copies, the other head is fitted to its energies as always."""
    start = {"model": str(project / "base.safetensors"), "heads": {"copper": "copper"}}
    config = load_config(project / "train.yaml", overrides={"start": start})
    setup = set_up(config, data=project / "data", manifest_path=project / "split.json", cache_dir=project / "cache")
    base = load(start["model"])
    assert torch.equal(setup.potential.encoder.embedding.weight, base.encoder.embedding.weight)
    assert torch.equal(setup.potential.head("copper").hidden.weight, base.head("copper").hidden.weight)
    assert setup.potential.head("copper").scale == base.head("copper").scale
    assert not torch.equal(setup.potential.head("molecules").hidden.weight, base.head("molecules").hidden.weight)
    assert setup.potential.head("molecules").scale == setup.scales["molecules"].forces
    # The same labels, so the reference energies that the head leaves are its own.
    own, found = base.references["copper"].values, setup.potential.references["copper"].values
    assert found[29] == pytest.approx(own[29], abs=0.05)


@pytest.mark.parametrize("of_start", ["fit", "isolated"])
def test_isolated_atoms_are_the_references_where_the_start_has_such(
    project: Path, tmp_path: Path, of_start: str
) -> None:
    """A head that predicts relative to fitted energies would begin electronvolts off relative to free atoms."""
    frames = read(project / "shifted" / "mine.extxyz", ":")
    atom = frames[0][:1].copy()
    atom.set_pbc(False)
    atom.info = {"energy": SHIFT + 3.0, "config_type": "isolated_atom", "dataset": "with_atoms"}
    for a in frames:
        a.info["dataset"] = "with_atoms"
    write(tmp_path / "with_atoms.extxyz", [*frames, atom], format="extxyz")
    model = project / "base.safetensors"
    options = FinetuneOptions(head="copper", functional="EMT", steps=2)
    if of_start == "isolated":
        path = prepare_finetuning(str(model), tmp_path / "with_atoms.extxyz", out=tmp_path / "first", options=options)
        # By hand, and warned of: then the model that it makes has free atoms below its head.
        path.write_text(path.read_text().replace("references: fit", "references: isolated"))
        model = _train(path.parent, path.parent, CONFIG_FILE, {}, data=tmp_path).checkpoint
        options = options._replace(head="with_atoms")
    out = tmp_path / "run"
    path = prepare_finetuning(str(model), tmp_path / "with_atoms.extxyz", out=out, options=options)
    assert yaml.safe_load(path.read_text())["datasets"][0]["references"] == of_start
    result = _train(out, out, CONFIG_FILE, {}, data=tmp_path)
    found = load(str(result.checkpoint)).references["with_atoms"]
    assert found.mode == of_start
    assert (found.values[29] == SHIFT + 3.0) == (of_start == "isolated")


def test_a_run_resumes_and_refuses_another_start(project: Path, tmp_path: Path) -> None:
    """The weights may lie elsewhere by then, but must be the same: references and scales come from them."""
    out = tmp_path / "run"
    _finetune(project, out, steps=20)
    assert (out / STATE_FILE).exists()
    with pytest.raises(ConfigurationError, match="another 'start'"):
        _resumed(project, out, {"start.heads": {"mine": "molecules"}})
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((project / "base.safetensors").read_bytes())
    assert _resumed(project, out, {"start.model": str(moved)}).finished
    other = _train(project, tmp_path / "other", "train.yaml", {"run.steps": 1, "run.seed": 7}).checkpoint
    with pytest.raises(ConfigurationError, match="another model than what"):
        _resumed(project, out, {"start.model": str(other)})


def _resumed(project: Path, out: Path, overrides: dict[str, object]) -> TrainResult:
    return train(
        load_config(out / CONFIG_FILE, overrides=overrides),
        data=project / "shifted",
        manifest_path=out / "split.json",
        out=out,
        resume=True,
        threads=1,
        cache_dir=project / "cache",
        console=Console(quiet=True),
    )


def test_what_does_not_fit_is_named(project: Path, tmp_path: Path) -> None:
    base = str(project / "base.safetensors")
    with pytest.raises(UnknownHeadError, match="2 heads"):
        _prepared(project, tmp_path / "a", head=None)
    with pytest.raises(UnknownHeadError, match="'gold'"):
        _prepared(project, tmp_path / "b", head="gold")
    with pytest.raises(ConfigurationError, match="say --functional"):
        _prepared(project, tmp_path / "c", functional=None)
    with pytest.raises(ConfigurationError, match=r"optimizer\.learning_rate: .*greater than 0"):
        _prepared(project, tmp_path / "c", learning_rate=0.0)
    few = read(project / "shifted" / "mine.extxyz", ":1")
    few[0].info["dataset"] = "few"
    write(tmp_path / "few.extxyz", few, format="extxyz")
    options = FinetuneOptions(head="copper", functional="EMT")
    with pytest.raises(ConfigurationError, match="1 structures cannot be divided"):
        prepare_finetuning(base, tmp_path / "few.extxyz", out=tmp_path / "c", options=options)
    assert not (tmp_path / "c").exists()
    with pytest.raises(ConfigurationError, match=r"model\.encoder\.channels is 16 and 8 in .*base"):
        _setup(project, {"model.encoder.channels": 16, "start": {"model": base}})
    with pytest.raises(ConfigurationError, match="'gold', which is none of the datasets"):
        _setup(project, {"start": {"model": base, "heads": {"gold": "copper"}}})
    with pytest.raises(ConfigurationError, match=r"balancing is of what heads ask of the encoder"):
        _setup(project, {"start": {"model": base, "train_encoder": False}, "balancing.project": True})


def test_a_configuration_without_a_state_is_replaced_and_a_run_is_not(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    _prepared(project, out, steps=30)
    _prepared(project, out, steps=2)
    assert load_config(out / CONFIG_FILE).run.steps == 2
    _train(out, out, CONFIG_FILE, {}, data=project / "shifted")
    with pytest.raises(ConfigurationError, match="holds a run: go on with --resume"):
        _prepared(project, out, steps=30)


@pytest.mark.parametrize("file", ["state.extxyz", "mine.XYZ", "mine.extxyz"])
def test_any_name_of_a_file_is_a_name_of_a_model(project: Path, tmp_path: Path, file: str) -> None:
    """The state of the run lies in state.safetensors; endings may be in capitals."""
    labels = tmp_path / file
    frames = read(project / "shifted" / "mine.extxyz", ":")
    for atoms in frames:
        del atoms.info["dataset"]
    write(labels, frames, format="extxyz")
    options = FinetuneOptions(head="copper", functional="EMT", steps=1)
    prepare_finetuning(str(project / "base.safetensors"), labels, out=tmp_path / "run", options=options)
    result = _train(tmp_path / "run", tmp_path / "run", CONFIG_FILE, {}, data=tmp_path)
    name = labels.name.partition(".")[0]
    assert result.checkpoint.name == f"{name}-finetuned.safetensors"
    assert load(str(result.checkpoint)).heads == [name]


@pytest.mark.parametrize("trajectories", [12, 6])
def test_frames_of_one_trajectory_stay_together(project: Path, tmp_path: Path, trajectories: int) -> None:
    """Neighbors in time on both sides make errors look better than they are. Each of six is more than a tenth of the file."""
    frames = read(project / "shifted" / "mine.extxyz", ":")
    for k, atoms in enumerate(frames):
        atoms.info |= {"group": f"trajectory {k * trajectories // len(frames)}", "dataset": "some"}
    write(tmp_path / "some.extxyz", frames, format="extxyz")
    out, options = tmp_path / "run", FinetuneOptions(head="copper", functional="EMT")
    prepare_finetuning(str(project / "base.safetensors"), tmp_path / "some.extxyz", out=out, options=options)
    read_back = read_extxyz(tmp_path / "some.extxyz")
    training, held = apply(load_manifest(out / "split.json"), read_back)
    sides = [{read_back.group[i] for i in side} for side in (training, held)]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_a_store_knows_its_level_of_theory(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.store"
    theory = LevelOfTheory(functional="EMT")
    # Energies relative to free atoms; the head to start from has fitted ones, so the new one gets such too.
    attributes = StoreAttributes(level_of_theory=theory, licence="CC0", attribution="us", references="zero")
    with StoreWriter(path, name="mine", attributes=attributes) as writer:
        writer.append(read_extxyz(project / "shifted" / "mine.extxyz"), split="all")
    base, options = str(project / "base.safetensors"), FinetuneOptions(head="copper", steps=2)
    with pytest.raises(ConfigurationError, match="holds labels of EMT, not PBE: leave out --functional"):
        prepare_finetuning(base, path, out=tmp_path / "run", options=options._replace(functional="PBE"))
    prepare_finetuning(base, path, out=tmp_path / "run", options=options)
    model = load(str(_train(tmp_path / "run", tmp_path / "run", CONFIG_FILE, {}, data=tmp_path).checkpoint))
    assert model.info.heads["mine"].level_of_theory == theory
    assert model.info.heads["mine"].licence == "CC0"
    assert model.references["mine"].mode == "fit"


def test_the_architecture_is_that_of_the_start(project: Path, tmp_path: Path) -> None:
    """A configuration without a section `model`, and with a path relative to itself."""
    document = yaml.safe_load((project / "train.yaml").read_text())
    del document["model"]
    path = project / "from_start.yaml"
    path.write_text(yaml.safe_dump(document | {"start": {"model": "base.safetensors"}}))
    config = load_config(path)
    assert config.model == load(str(project / "base.safetensors")).config
    assert config.start.model == str((project / "base.safetensors").resolve())
    path.write_text(yaml.safe_dump(document | {"start": {"model": "missing.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"missing\.safetensors"):
        load_config(path)


def _setup(project: Path, overrides: dict[str, object]) -> None:
    config = load_config(project / "train.yaml", overrides=overrides)
    set_up(config, data=project / "data", manifest_path=project / "split.json", cache_dir=project / "cache")


def test_the_command(project: Path, tmp_path: Path) -> None:
    """Errors before and after on the screen, a model and its configuration in the folder; a second run is refused."""
    out = tmp_path / "run"
    command = _command(project, out)
    done = CliRunner().invoke(build_app(), command)
    assert done.exit_code == 0, done.output
    assert re.search(r"forces\s+MAE\s+[\d.e+]+ → [\d.e+]+ meV/Å", done.output)
    assert {p.name for p in out.iterdir()} >= {"mine-finetuned.safetensors", CONFIG_FILE, "split.json"}
    written = load(str(out / "mine-finetuned.safetensors")).info.provenance
    assert written["config"]["start"]["model"] == "base.safetensors"  # no folder of this machine
    assert CliRunner().invoke(build_app(), command).exit_code != 0
    again = CliRunner().invoke(build_app(), [*command, "--resume"])
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--head", "molecules", "--head copper, not molecules"),
        ("--steps", "11", "--steps 10, not 11"),
        ("--learning-rate", "0.1", "--learning-rate 0.001, not 0.1"),
        ("--no-encoder", None, "--encoder True, not False"),
        ("--functional", "PBE", "--functional EMT, not PBE"),
        ("--held-out", "0.2", "--held-out 0.1, not 0.2"),
    ],
)
def test_resuming_with_other_options_is_refused(
    project: Path, tmp_path: Path, option: str, value: str | None, said: str
) -> None:
    _prepared(project, tmp_path, steps=10)
    (tmp_path / STATE_FILE).touch()
    command = [*_command(project, tmp_path), option, *([] if value is None else [value]), "--resume"]
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        CliRunner().invoke(build_app(), command, catch_exceptions=False)


def test_resuming_nothing_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing to resume"):
        CliRunner().invoke(build_app(), [*_command(project, tmp_path), "--resume"], catch_exceptions=False)


def test_what_is_only_prepared_is_what_train_takes(monkeypatch, project: Path, tmp_path: Path) -> None:
    """The command on the screen trains the same model as hydrapot finetune."""
    done = CliRunner().invoke(build_app(), [*_command(project, tmp_path / "one"), "--only-prepare"])
    assert done.exit_code == 0, done.output
    assert {p.name for p in (tmp_path / "one").iterdir()} == {CONFIG_FILE, "split.json"}
    _, _, said = done.output.strip().partition(": hydrapot ")
    monkeypatch.chdir(tmp_path / "one")
    trained = CliRunner().invoke(build_app(), [*shlex.split(said), "--threads", "1"])
    assert trained.exit_code == 0, trained.output
    whole = CliRunner().invoke(build_app(), _command(project, tmp_path / "two"))
    assert whole.exit_code == 0, whole.output
    first, second = (load(str(tmp_path / run / "mine-finetuned.safetensors")) for run in ("one", "two"))
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_command_is_one_process(monkeypatch, project: Path, tmp_path: Path) -> None:
    """Under mpiexec every process would write the same files."""
    for key, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "::1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigurationError, match="finetune is one process"):
        CliRunner().invoke(build_app(), _command(project, tmp_path / "run"), catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def _command(project: Path, out: Path) -> list[str]:
    command = ["finetune", str(project / "base.safetensors"), str(project / "shifted" / "mine.extxyz"), "-o", str(out)]
    return [*command, *["--head", "copper", "--functional", "EMT", "--steps", "10", "--threads", "1"]]
