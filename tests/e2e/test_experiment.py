"""`tunewise run`, as a person runs it: real processes, a real (tiny) model, real HTTP, the report on the disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tunewise.cli import app
from tunewise.contracts.evaluation import Report
from tunewise.contracts.run import BaseModelRef

COLOURS = ("red", "green", "blue", "amber", "white", "black")
TRAIN_ROWS, TEST_ROWS = 24, 8


def row(number: int) -> dict[str, object]:
    colour = COLOURS[number % len(COLOURS)]
    asked = {"role": "user", "content": f"Which colour has ball number {number}, painted {colour}?"}
    return {"messages": [asked, {"role": "assistant", "content": colour}]}


def write_rows(path: Path, numbers: range) -> None:
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in numbers))


@pytest.fixture
def config(tmp_path: Path, tiny_model: BaseModelRef) -> Path:
    """An experiment that is over in half a minute."""
    write_rows(tmp_path / "train.jsonl", range(TRAIN_ROWS))
    write_rows(tmp_path / "valid.jsonl", range(100, 110))
    write_rows(tmp_path / "test.jsonl", range(200, 200 + TEST_ROWS))
    path = tmp_path / "tunewise.yaml"
    settings = {
        "model": str(tiny_model.path),
        "suffix": "colours",
        "data": {"train": "train.jsonl", "valid": "valid.jsonl", "test": "test.jsonl"},
        "graders": [{"name": "colour", "type": "label"}],
        "arms": {"few_shot": {"k": 2}, "retrieval": {"k": 1}},
        "evaluation": {"max_completion_tokens": 4},
        "training": {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}},
        "prices": {"machine_hour": 0.5},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def start(config: Path, *flags: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "tunewise.cli", "run", str(config), "--json", *flags]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[list[dict[str, object]], str]:
    out, err = process.communicate(timeout=300)
    return [json.loads(line) for line in out.splitlines()], err


def of_kind(events: list[dict[str, object]], kind: str) -> list[dict[str, object]]:
    return [event for event in events if event["event"] == kind]


def children_of(directory: Path) -> list[str]:
    """Command lines of processes that were started for this directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(directory) in text and ("tunewise.serve" in text or "tunewise.train" in text):
            found.append(text)
    return found


def test_a_run_ends_in_a_verdict_and_a_second_one_reuses_every_stage(config: Path) -> None:
    process = start(config)
    events, errors = finish(process)
    assert process.returncode == 0, errors
    verdict = of_kind(events, "verdict")[0]
    assert verdict["outcome"] == "inconclusive", "eight test rows cannot show anything"
    stages = [event["stage"] for event in of_kind(events, "stage")]
    assert stages == ["set-up", "check", "freeze", "baselines", "train", "evaluate", "verdict"]

    directory = config.parent / "runs" / "colours"
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert {arm.arm for arm in report.arms} == {"prompt", "few_shot", "retrieval", "tuned", "majority", "nearest"}
    assert all(len(score.rows) == TEST_ROWS for arm in report.arms for score in arm.scores)
    assert report.result.status == "succeeded"
    assert [step.step for step in report.curve] == list(range(1, report.result.steps + 1))
    assert report.check.estimate is not None
    assert report.economics.training_cost > 0
    assert (directory / "report.html").is_file()
    assert (directory / "decision.md").read_text().startswith("# ")

    again = start(config)
    events, errors = finish(again)
    assert again.returncode == 0, errors
    reused = {event["stage"] for event in of_kind(events, "reused")}
    assert {"check", "train"} <= reused
    second = Report.model_validate_json((directory / "report.json").read_bytes())
    assert second.arms == report.arms
    assert children_of(config.parent) == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches a child even where these tests run in the background of a shell, which lets all ignore it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_stops_its_children_and_goes_on_later(config: Path) -> None:
    process = start(config)
    assert process.stdout is not None
    for line in process.stdout:
        if '"stage": "train"' in line:
            break
    deadline = time.monotonic() + 60
    while not any("tunewise.train" in child for child in children_of(config.parent)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert children_of(config.parent) == []

    events, errors = finish(resumed := start(config))
    assert resumed.returncode == 0, errors
    assert "prompt" in {event["stage"] for event in of_kind(events, "reused")}, "the baselines are not asked again"


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Give this process its signals back: the command, called in it, takes them."""
    taken = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, former in taken.items():
        signal.signal(number, former)


# The table: what is wrong, and what the person is told. Nothing of it may be trained on, or leave a child.
@pytest.mark.parametrize(
    ("break_it", "code", "says"),
    [
        (lambda d: (d / "train.jsonl").unlink(), "file_not_found", "train.jsonl: no such file"),
        (lambda d: (d / "train.jsonl").write_text(""), "empty_file", "train.jsonl"),
        (lambda d: write_rows(d / "train.jsonl", range(3)), "invalid_n_examples", "at least 10"),
        (lambda d: _replace(d / "train.jsonl", '"user"', '"usr"'), "invalid_role", "line 1"),
        (lambda d: _replace(d / "train.jsonl", '"assistant"', '"user"'), "no_assistant_message", "line 1"),
        (lambda d: _replace(d / "train.jsonl", '"content"', '"contents"'), "unknown_field", "contents"),
        (lambda d: _replace(d / "train.jsonl", "number 3,", "number 3," + " very" * 3000), "overlong", "line 4"),
        (lambda d: _encode(d / "train.jsonl", "utf-16"), "wrong_encoding", "UTF-16"),
        (lambda d: _replace(d / "tunewise.yaml", "suffix", "sufix"), "invalid_config", "did you mean 'suffix'"),
        (lambda d: _replace(d / "tunewise.yaml", "model: /", "model: /nowhere/"), "unknown_model", "/nowhere/"),
        (lambda d: (d / "test.jsonl").write_text("{}\n"), "missing_field", "test.jsonl, line 1"),
        (lambda d: _replace(d / "tunewise.yaml", "k: 1", "documents: absent.jsonl"), "unreadable_file", "absent.jsonl"),
    ],
)
@pytest.mark.usefixtures("own_signals")
def test_bad_input_is_named_and_changes_nothing(config: Path, break_it: object, code: str, says: str) -> None:
    assert callable(break_it)
    break_it(config.parent)
    done = CliRunner().invoke(app, ["run", str(config), "--json"])
    assert done.exit_code in {2, 3, 4}, done.output
    assert '"baselines"' not in done.stdout
    assert f"({code})" in done.stderr
    assert says in done.stderr
    assert isinstance(done.exception, SystemExit), "nothing but the message and the exit code"
    assert not list(config.parent.glob("runs/*/train-*"))
    assert children_of(config.parent) == []


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _encode(path: Path, encoding: str) -> None:
    path.write_bytes(path.read_text().encode(encoding))
