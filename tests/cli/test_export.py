"""`tunewise export`: every kind of name, what is printed, and what is refused before anything is written."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.tuned import add_tuned, make_platform
from train.making import make_run, make_spec, row, train, write_rows
from tunewise.cli import app
from tunewise.contracts.run import BaseModelRef
from tunewise.jobs.platform import Platform

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def trained(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an experiment called `lists`, with one run in it."""
    place = tmp_path_factory.mktemp("experiment")
    rows = write_rows(place / "train.jsonl", [row(number) for number in range(12)])
    run = make_run(place / "runs" / "lists" / "train-0123456789abcdef", make_spec(tiny_model, rows, n_epochs=1))
    assert train(run) == 0
    return run.parent


@pytest.fixture
def platform(tmp_path: Path, tiny_model: BaseModelRef, monkeypatch: pytest.MonkeyPatch) -> Platform:
    platform = make_platform(tmp_path / "home", tiny_model)
    monkeypatch.setattr("tunewise.cli.export.get_settings", lambda: platform.settings)
    monkeypatch.chdir(tmp_path)
    return platform


def export(*arguments: str) -> Result:
    return RUNNER.invoke(app, ["export", *arguments])


@pytest.mark.usefixtures("platform")
def test_an_experiment_is_exported_by_its_suffix_and_told_of(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(trained.parent)
    result = export("lists", "--to", "gguf")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "lists-gguf").iterdir()} == {"lists-f16.gguf", "Modelfile"}
    assert "lists-f16.gguf" in result.stdout
    assert "Checked with llama.cpp: " in result.stdout
    assert "as answered when training ended" in result.stdout


@pytest.mark.usefixtures("platform")
def test_a_run_directory_is_exported_with_a_card_of_its_run(trained: Path, tmp_path: Path) -> None:
    run = next(trained.glob("train-*/"))
    result = export(str(run), "--to", "hub-dir", "--output", str(tmp_path / "out"), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["checked_with"], report["recorded"], report["near_ties"]) == ("PEFT on the base model", True, 0)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# lists" in card
    assert "| training file | 12 rows, sha256 " in card


def test_a_tuned_model_is_exported_by_its_name(platform: Platform, tiny_model: BaseModelRef, tmp_path: Path) -> None:
    model = add_tuned(platform, tiny_model)
    result = export(model.name, "--to", "merged", "--base", str(tiny_model.path), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["recorded"] is False
    assert Path(report["output"]).parent == tmp_path
    assert Path(report["output"]).name.endswith("-merged")
    assert "model.safetensors" in report["files"]


@pytest.mark.usefixtures("platform")
def test_weights_that_training_did_not_write_are_refused(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(next(trained.glob("train-*/")), tmp_path / "run")
    with (run / "adapter" / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    result = export(str(run), "--to", "merged")
    assert result.exit_code == 4
    assert "(adapter_changed)" in result.stderr
    assert not (tmp_path / "run-merged").exists()


@pytest.mark.usefixtures("platform")
def test_an_adapter_that_answers_otherwise_is_refused_in_the_childs_words(trained: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(next(trained.glob("train-*/")) / "adapter", tmp_path / "adapter")
    parity = json.loads((adapter / "parity.json").read_text())
    parity["prompts"][0]["continuation"][1] = 17
    (adapter / "parity.json").write_text(json.dumps(parity))
    result = export(str(adapter), "--to", "merged", "--output", str(tmp_path / "out"))
    assert result.exit_code == 4
    assert "error (parity_failed): the merged export of adapter: prompt 1 of" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing", "--to", "merged"), 2, "'nothing' is no directory, no tuned model"),
        (("RUN", "--to", "gguf", "--dtype", "bfloat16"), 2, "--dtype is of whole weights"),
        (("RUN", "--to", "hub-dir", "--dtype", "bfloat16"), 2, "this is hub-dir of an adapter"),
        (("RUN", "--to", "merged", "--quantisation", "q8_0"), 2, "--quantisation is of GGUF files"),
        (("RUN", "--to", "adapter", "--unverified"), 2, "--unverified is of GGUF files"),
        (("EMPTY", "--to", "adapter"), 4, "holds no tuned weights"),
    ],
)
@pytest.mark.usefixtures("platform")
def test_what_cannot_be_done_is_said_at_once(
    arguments: tuple[str, ...], code: int, words: str, trained: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"RUN": str(trained), "EMPTY": str(empty)}
    result = export(*(places.get(argument, argument) for argument in arguments))
    assert (result.exit_code, words in result.stderr) == (code, True), result.output
