"""`tunewise data check`: what a person sees, what a program gets, and the exit code.

`python tests/cli/test_data.py` writes the golden file anew.
"""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tunewise.cli import app
from tunewise.cli.data import split_of
from tunewise.cli.data_report import print_report, sparkline
from tunewise.contracts.check import CheckReport, Estimate
from tunewise.contracts.run import BaseModelRef
from tunewise.data.check import check

RUNNER = CliRunner()
GOLDEN = Path(__file__).parents[1] / "golden" / "data_check.txt"


def row(question: str, answer: str, **fields: Any) -> str:  # noqa: ANN401
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **fields}]
    return json.dumps({"messages": messages})


def write_files(directory: Path) -> tuple[Path, Path]:
    """A training file with one of many problems each, and a test file with a row that leaked."""
    good = [row(f"What is {n} times {n + 3}?", f"It is {n * (n + 3)}.") for n in range(10)]
    bad = [
        '{"messages": [',
        row("Hello", "Good day", loss_weight=1),
        row("Hello", "Good day").replace('"assistant"', '"gpt"'),
        row("Who are you?", "I am {{name}}, write to me: jane@company.com"),
        row("Silence", ""),
        good[3],
    ]
    train, test = directory / "train.jsonl", directory / "test.jsonl"
    train.write_text("\n".join([*good, *bad]) + "\n")
    test.write_text("\n".join([good[4], row("Is the sea salt?", "Yes, it is.")]) + "\n")
    return train, test


def printed(report: CheckReport) -> str:
    console = Console(width=120, record=True, color_system=None, file=io.StringIO())
    print_report(report, console)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def test_the_printed_report_is_the_golden_one(tmp_path: Path) -> None:
    train, test = write_files(tmp_path)
    assert printed(check([("train", train), ("test", test)])) == GOLDEN.read_text()


def test_errors_exit_with_3_and_json_holds_every_finding(tmp_path: Path, smollm2: BaseModelRef) -> None:
    train, test = write_files(tmp_path)
    result = RUNNER.invoke(app, ["data", "check", str(train), str(test), "--json"])
    assert result.exit_code == 3
    report = CheckReport.model_validate_json(result.stdout)
    assert [file.split for file in report.files] == ["train", "test"]
    assert {finding.code for finding in report.errors} == {
        "invalid_json", "unknown_field", "invalid_role", "empty_assistant_content",
    }  # fmt: skip
    assert report.hyperparameters is not None
    assert report.hyperparameters["max_tokens"] == smollm2.context_length
    assert report.estimate is not None
    assert report.estimate.seconds > 0
    assert len(report.inspected) == 3


def test_a_clean_file_exits_with_0(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    answers = [
        "red",
        "a green field",
        "blue",
        "up",
        "the north",
        "seven",
        "never",
        "on Monday",
        "by train",
        "salt",
        "x",
    ]
    path.write_text("\n".join(row(f"Riddle {a}?", a) for a in answers))
    result = RUNNER.invoke(app, ["data", "check", str(path), "--model", "none"])
    assert result.exit_code == 0, result.stdout
    assert "No errors and no warnings" in result.stdout


def test_an_overlong_row_is_an_error_unless_it_may_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row(f"Riddle {'very ' * n}?", f"Answer {n}") for n in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)]
    path.write_text("\n".join(rows))
    arguments = ["data", "check", str(path), "--max-tokens", "80", "--json"]
    assert RUNNER.invoke(app, arguments).exit_code == 3
    assert RUNNER.invoke(app, [*arguments, "--overlong", "drop"]).exit_code == 0


def estimate_of(*arguments: str | Path) -> Estimate:
    """What `tunewise data check --json` says a job would take."""
    result = RUNNER.invoke(app, ["data", "check", *map(str, arguments), "--json"])
    estimate = CheckReport.model_validate_json(result.stdout).estimate
    assert estimate is not None
    return estimate


def test_the_estimate_is_of_all_training_files_together(tmp_path: Path) -> None:
    whole, *halves = (tmp_path / name for name in ("all.jsonl", "one.jsonl", "two.jsonl"))
    rows = [row(f"What is {n} and {n * n}?", "It is " + "more " * n) for n in range(1, 41)]
    for path, part in zip((whole, *halves), (rows, rows[:12], rows[12:]), strict=True):
        path.write_text("\n".join(part))
    # The speed is measured anew for each.
    apart, together = (
        made.model_copy(update={"seconds": 0.0, "basis": ""}) for made in (estimate_of(*halves), estimate_of(whole))
    )
    assert apart == together


def test_the_estimate_counts_what_is_cut_or_dropped_as_training_does(tmp_path: Path) -> None:
    kept, mixed = tmp_path / "kept.jsonl", tmp_path / "mixed.jsonl"
    short = [row(f"Riddle {n}?", f"Answer {n}") for n in range(20)]
    kept.write_text("\n".join(short))
    mixed.write_text("\n".join([*short, row("Tell me", "word " * 100), row("never " * 100, "cut off")]))
    limits = ("--max-tokens", "64")
    alone = estimate_of(kept, *limits)
    per_epoch = alone.billed_tokens // 5
    assert alone.billed_tokens == 5 * per_epoch, "twenty rows are trained five times"
    dropped = estimate_of(mixed, *limits, "--overlong", "drop")
    assert dropped.billed_tokens == 4 * per_epoch, "twenty-two rows would be trained four times"
    assert (dropped.steps, dropped.memory_bytes) == (4 * 20, alone.memory_bytes)
    truncated = estimate_of(mixed, *limits, "--overlong", "truncate")
    assert truncated.billed_tokens == 4 * (per_epoch + 64), "one is cut, of the other no answer is left"
    assert truncated.steps == 4 * 21


def test_no_file_and_an_unknown_model_are_refused(tmp_path: Path) -> None:
    train, _ = write_files(tmp_path)
    assert RUNNER.invoke(app, ["data", "check"]).exit_code == 2
    unknown = RUNNER.invoke(app, ["data", "check", str(train), "--model", str(tmp_path / "nowhere")])
    assert unknown.exit_code == 4


@pytest.mark.parametrize(
    ("name", "split"),
    [("test.jsonl", "test"), ("my-val.jsonl", "valid"), ("dev.jsonl", "valid"), ("rows.jsonl", "train")],
)
def test_a_file_is_for_what_its_name_says(name: str, split: str) -> None:
    assert split_of(Path(name)) == split


def test_a_bin_that_holds_anything_shows() -> None:
    assert sparkline((0, 1, 1000)) == " ▁█"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        made_train, made_test = write_files(Path(scratch))
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(printed(check([("train", made_train), ("test", made_test)])))
