"""`tunewise run --explain`: the plan and its reasons, with nothing asked and nothing trained."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from tunewise.cli import app
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import DataError

COLOURS = ("red", "green", "blue", "amber")


def pair(number: int) -> str:
    colour = COLOURS[number % 4]
    return json.dumps(
        {
            "input": {"messages": [{"role": "user", "content": f"Which colour has ball {number}, painted {colour}?"}]},
            "preferred_output": [{"role": "assistant", "content": colour}],
            "non_preferred_output": [{"role": "assistant", "content": f"Ball {number} has none."}],
        }
    )


@pytest.fixture
def config(tmp_path: Path, tiny_model: BaseModelRef) -> Path:
    for name, first, count in (("train", 0, 40), ("test", 100, 12)):
        rows = [pair(number) for number in range(first, first + count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    content = {
        "model": str(tiny_model.path),
        "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "training": {"method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2}}}},
        "graders": [{"name": "colour", "type": "exact_match"}],
    }
    path = tmp_path / "tunewise.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def explained(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["run", *arguments, "--explain"])


def test_the_plan_is_told_with_its_reasons_and_nothing_is_run(config: Path) -> None:
    result = explained(str(config), "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.output.splitlines()[-1])
    told = {reason["name"]: reason for reason in plan["reasons"]}
    assert (told["method"]["value"], told["beta"]["value"], told["n_epochs"]["why"]) == ("dpo", "0.1", "as asked for")
    assert plan["estimate"]["steps"] == 80
    assert not list(config.parent.rglob("train-*"))
    assert not list(config.parent.rglob("answers-*"))


def test_a_person_reads_it_as_a_table(config: Path) -> None:
    result = explained(str(config))
    assert result.exit_code == 0, result.output
    assert "learning_rate" in result.output
    assert "A job would use" in result.output


def test_what_would_stop_the_run_stops_the_explanation(config: Path) -> None:
    config.write_text(config.read_text().replace("type: dpo", "type: supervised").replace("dpo:", "supervised:"))
    result = explained(str(config))
    assert result.exit_code == DataError.exit_code
    assert "holds preference pairs, and the method supervised trains on conversations" in " ".join(
        result.output.split()
    )
