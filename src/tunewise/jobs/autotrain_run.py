"""Preparing an AutoTrain file to run: its rows converted, some kept out to judge by, `tunewise.yaml` written.

AutoTrain trains and stops; a verdict needs rows that nothing was trained on, and a grader. Both are chosen here, and
said. What is written depends on the file and its rows alone, so that a second run goes on where the first one was.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from tunewise.contracts.autotrain import Prepared, Translation
from tunewise.contracts.fine_tuning import PREFERENCES
from tunewise.contracts.importing import ColumnMapping
from tunewise.data.columns import named
from tunewise.data.convert import convert, detect, unanswered
from tunewise.data.tables.hub import fetch, is_hub_id
from tunewise.errors import DataError
from tunewise.jobs import autotrain_text
from tunewise.jobs.stages import write_whole
from tunewise.settings import Settings

LEAST_ROWS = 30
TEST_SHARE, LEAST_TEST_ROWS, MOST_TEST_ROWS = 10, 10, 200
MOST_LABELS, LABEL_CHARS = 50, 40
TEXT_NOTE = (
    "plain text without roles is trained on token by token, as AutoTrain does (pretraining); it asks nothing, so that "
    "{asked} of the texts that are kept out are asked by their first half and graded by their second"
)


class HeldOut(NamedTuple):
    """How many rows were kept out, of how many, and their answers and those of the others."""

    test_rows: int
    rows: int
    answers: list[str]
    train_answers: set[str]


def prepare(translation: Translation, config_path: Path, output: Path | None, settings: Settings) -> Prepared:
    """Convert the rows and write the config that is run.

    Raises:
        DataError: the rows cannot be found or converted, or are too few to train on and judge by.
    """
    directory = output or config_path.resolve().parent / "runs" / translation.project
    data_dir = directory / "data"
    data_dir.mkdir(parents=True, exist_ok=True)
    translation = _as_trained(translation, config_path, settings)
    notes = _convert(translation, translation.train_split, data_dir / "all.jsonl", config_path, settings)
    held_out = _hold_out(data_dir)
    if translation.method == "pretraining":
        notes.append(TEXT_NOTE.format(asked=autotrain_text.ask_by_halves(data_dir / "test.jsonl")))
    data: dict[str, Any] = {"train": "data/train.jsonl", "test": "data/test.jsonl"}
    if translation.valid_split is not None:
        notes += _convert(translation, translation.valid_split, data_dir / "valid.jsonl", config_path, settings)
        data["valid"] = "data/valid.jsonl"
    grader = _grader(held_out)
    config = {
        **translation.config,
        "data": {**data, **translation.config.get("data", {}), "overlong": "truncate"},
        "graders": [grader],
    }
    path = directory / "tunewise.yaml"
    write_whole(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    notes.append(
        f"{held_out.test_rows} of {held_out.rows} rows are kept out of training to judge by; AutoTrain has no such rows"
    )
    notes.append(f"graded by {grader['type']}; name another grader in {path} and run that file")
    return Prepared(config=path, directory=directory, keys=translation.keys, notes=tuple(notes))


def _as_trained(translation: Translation, config_path: Path, settings: Settings) -> Translation:
    """With plain text, as AutoTrain trains it."""
    place, split = _located(translation.rows, translation.train_split, config_path, settings)
    if translation.method in PREFERENCES:
        return translation
    column = autotrain_text.text_column(translation, detect(place, ColumnMapping(to="chat", split=split)))
    return translation if column is None else autotrain_text.as_pretraining(translation, column)


def _convert(
    translation: Translation, split: str | None, out: Path, config_path: Path, settings: Settings
) -> list[str]:
    """Convert one split; gives what a person should know of it.

    Raises:
        DataError: it cannot be found, its column holds no messages, or a row cannot be converted.
    """
    place, wanted = _located(translation.rows, split, config_path, settings)
    column, said = translation.text_column, _said(translation)
    if translation.method == "pretraining":
        written = autotrain_text.write_texts(place, wanted, column or autotrain_text.DEFAULT_COLUMN, out)
        return [f"{split or place.name}: {written} texts from {column!r}"]
    found = detect(place, said.model_copy(update={"split": wanted}))
    kind = next((one.kind for one in found.columns if one.name == column), "")
    if said.to == "chat" and column is not None and "list of messages" not in kind:
        raise DataError(
            "not_messages",
            f"{place}: column {column!r} holds {kind}, and training needs messages with roles; name another column in "
            "data.column_mapping.text_column, or convert the file with tunewise data convert",
            param="data.column_mapping.text_column",
        )
    mapping = found.mapping
    if mapping is None:
        raise unanswered(found)
    result = convert(place, mapping, out)
    if result.findings:
        first = result.findings[0]
        raise DataError(
            first.code,
            f"{first.file}, line {first.line}: {first.message}; {first.remedy} ({len(result.findings)} such row(s))",
            param=first.param,
        )
    columns = ", ".join(f"{role} from {name!r}" for role, name in named(mapping).items())
    dropped = [f"{name} was not carried over ({rows} rows)" for name, rows in sorted(result.ignored.items())]
    return [f"{split or place.name}: {result.written} rows, {columns}", *dropped]


def _said(translation: Translation) -> ColumnMapping:
    """What the file says of its columns; what it leaves open is seen from the rows."""
    if translation.method not in PREFERENCES:
        return ColumnMapping(to="chat", messages=translation.text_column)
    return ColumnMapping(
        to="preference",
        prompt=translation.prompt_column,
        chosen=translation.text_column,
        rejected=translation.rejected_column,
    )


def _located(rows: str, split: str | None, config_path: Path, settings: Settings) -> tuple[Path, str | None]:
    """Where the rows are: beside the config, where the command was given, or on the hub."""
    for place in (config_path.resolve().parent / Path(rows).expanduser(), Path(rows)):
        if place.exists():
            return place, None if place.is_file() else split
    if is_hub_id(rows):
        return fetch(rows, split, offline=settings.hub_offline), split
    raise DataError(
        "file_not_found", f"data.path: {rows!r}: no such file, directory or hub data set; correct it", param="data.path"
    )


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _hold_out(directory: Path) -> HeldOut:
    """Part the rows by their content's hash, so that equal rows stay together and a second run parts alike.

    Raises:
        DataError: too_few_rows.
    """
    source = directory / "all.jsonl"
    digests = sorted({_digest(line) for line in _lines(source)})
    if len(digests) < LEAST_ROWS:
        raise DataError(
            "too_few_rows",
            f"{len(digests)} different rows; at least {LEAST_ROWS} are needed to train on some and judge by the others",
            param="data.path",
        )
    wanted = min(MOST_TEST_ROWS, max(LEAST_TEST_ROWS, len(digests) // TEST_SHARE))
    chosen = set(digests[:wanted])
    held_out = HeldOut(0, 0, [], set())
    with (directory / "train.jsonl").open("wb") as train, (directory / "test.jsonl").open("wb") as test:
        for line in _lines(source):
            is_test = _digest(line) in chosen
            (test if is_test else train).write(line)
            held_out = held_out._replace(test_rows=held_out.test_rows + is_test, rows=held_out.rows + 1)
            _note_answer(held_out, line, is_test=is_test)
    source.unlink()
    return held_out


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()[:16]


def _note_answer(held_out: HeldOut, line: bytes, *, is_test: bool) -> None:
    row = msgspec.json.decode(line)
    content = (row.get("messages") or row.get("preferred_output") or [{}])[-1].get("content")
    answer = content if isinstance(content, str) else ""
    if is_test:
        held_out.answers.append(answer)
    elif len(held_out.train_answers) <= MOST_LABELS:
        held_out.train_answers.add(answer)


def _grader(held_out: HeldOut) -> dict[str, str]:
    """Labels where all answers are a few short ones that training shows too; else how alike two texts are."""
    labels = set(held_out.answers)
    is_label = len(held_out.train_answers) <= MOST_LABELS and labels <= held_out.train_answers
    if is_label and all(0 < len(label) <= LABEL_CHARS for label in labels):
        return {"name": "label", "type": "label"}
    return {"name": "similarity", "type": "text_similarity", "evaluation_metric": "rouge_l"}
