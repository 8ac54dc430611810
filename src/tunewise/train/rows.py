"""Rows ready to train on: read from a frozen file, rendered, and counted. Knows nothing of batches."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, assert_never

from tunewise.contracts.chat import ChatExample
from tunewise.contracts.fine_tuning import LossOn, Overlong
from tunewise.contracts.run import (
    DataFile,
    KtoObjective,
    Objective,
    PretrainingObjective,
    RowCounts,
    SupervisedObjective,
)
from tunewise.data.answers import Answered
from tunewise.data.documents import blocks, document_chunks
from tunewise.data.fitting import misfit
from tunewise.data.formats import Row, detect_format, examples_of, read_rows, read_texts
from tunewise.data.template import Rendered, Template
from tunewise.errors import DataError, TrainingError
from tunewise.train.criterion import Unit
from tunewise.train.mismatched import with_mismatched

RENDER_ROWS = 1024


class Loaded(NamedTuple):
    """The units of one file that are trained on, in the file's order, and what became of the other rows.

    `text_bytes`: of plain text, the documents' UTF-8 bytes; else 0.
    """

    units: list[Unit]
    counts: RowCounts
    text_bytes: int = 0


def load_rows(
    file: DataFile, template: Template, objective: Objective, *, max_tokens: int, overlong: Overlong
) -> Loaded:
    """Read, render and fit every row of a file.

    Raises:
        TrainingError: missing_file, changed_file.
        DataError: invalid_file_format (rows of another method), a row cannot be read, overlong_row,
            nothing_to_train_on (no row is left).
    """
    check_frozen(file)
    _check_format(file.path, objective)
    if isinstance(objective, PretrainingObjective):
        return _load_texts(file.path, template, max_tokens)
    units: list[Unit] = []
    seen = truncated = dropped = silent = 0
    for line, row, unit in _rendered(file.path, template, _loss_on(objective)):
        seen += 1
        if unit is None:
            silent += 1
            continue
        fitted = _fit(unit, row, max_tokens, overlong, where=f"{file.path.name}, line {line}")
        truncated += fitted is not None and fitted is not unit
        if fitted is None:
            dropped += 1
        elif _is_trainable(fitted):
            units.append(fitted)
        else:
            silent += 1
    if not units:
        raise DataError(
            "nothing_to_train_on",
            f"{file.path.name}: none of {seen} rows has an answer to train on within {max_tokens} tokens; "
            "add assistant messages with weight other than 0, or allow longer rows",
            param="train_file",
        )
    counts = RowCounts(rows=seen, trained=len(units), truncated=truncated, dropped=dropped, nothing_to_train_on=silent)
    return Loaded(with_mismatched(units, max_tokens) if isinstance(objective, KtoObjective) else units, counts)


def _check_format(path: Path, objective: Objective) -> None:
    wrong = misfit(path.name, detect_format(path), objective.type)
    if wrong:
        raise DataError("invalid_file_format", wrong, param="method.type")


def _load_texts(path: Path, template: Template, max_tokens: int) -> Loaded:
    """Documents as blocks of at most `max_tokens` tokens, which are the units of a batch; none is too long."""
    rows: list[Rendered] = []
    seen = trained = size = 0
    texts = (text for _, text in read_texts(path))
    while batch := list(islice(texts, RENDER_ROWS)):
        seen += len(batch)
        filled = [text for text in batch if text and not text.isspace()]
        trained += len(filled)
        size += sum(len(text.encode()) for text in filled)
        rows += [chunk for chunks in document_chunks(template, filled, max_tokens) for chunk in chunks]
    if not rows:
        raise DataError(
            "nothing_to_train_on", f"{path.name}: none of {seen} documents holds a text; add some", param="train_file"
        )
    units = [Unit(tuple(rows[row] for row in block)) for block in blocks([len(row.ids) for row in rows], max_tokens)]
    counts = RowCounts(rows=seen, trained=trained, truncated=0, dropped=0, nothing_to_train_on=seen - trained)
    return Loaded(units, counts, size)


def check_frozen(file: DataFile) -> None:
    """Refuse a file that is gone or is not the one that was frozen.

    Raises:
        TrainingError: missing_file, changed_file.
    """
    if not file.path.is_file():
        raise TrainingError("missing_file", f"{file.path}: no such file; put it back, or submit the job again")
    with file.path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise TrainingError(
            "changed_file",
            f"{file.path}: sha256 is {found}, but the run was made for {file.sha256}; "
            "restore the file, or submit a new job for the changed one",
        )


def _loss_on(objective: Objective) -> LossOn:
    """Which messages carry loss; an answer that is compared is the assistant's."""
    return objective.loss_on if isinstance(objective, SupervisedObjective) else "assistant"


def _rendered(path: Path, template: Template, loss_on: LossOn) -> Iterator[tuple[int, Row, Unit | None]]:
    """Line numbers, rows and what they become; None where no message that carries loss has weight 1."""
    rows = read_rows(path)
    while block := list(islice(rows, RENDER_ROWS)):
        conversations = [example for _, row in block for example in examples_of(row)]
        rendered = iter(template.render_batch(conversations, loss_on))
        for line, row in block:
            sides = list(islice(rendered, len(examples_of(row))))
            yield line, row, _unit(row, sides, where=f"{path.name}, line {line}")


def _unit(row: Row, sides: list[Rendered | DataError], *, where: str) -> Unit | None:
    for side in sides:
        if isinstance(side, DataError) and side.code != "nothing_to_train_on":
            raise DataError(side.code, f"{where}: {side.message}", param=side.param)
    ready = tuple(side for side in sides if isinstance(side, Rendered))
    if len(ready) < len(sides):
        return None
    weight = row.weight if isinstance(row, ChatExample) else None
    return Unit(ready, wanted=row.wanted if isinstance(row, Answered) else True, weight=weight or 1.0)


def _is_trainable(unit: Unit) -> bool:
    """Whether every row has a token to train on, and two answers differ within what was kept of them."""
    return all(any(row.mask[1:]) for row in unit.rows) and (len(unit.rows) == 1 or unit.rows[0] != unit.rows[1])


def _fit(unit: Unit, row: Row, max_tokens: int, overlong: Overlong, *, where: str) -> Unit | None:
    """The unit itself, its rows' first `max_tokens` tokens, or None where it is to be left out."""
    longest = max(range(len(unit.rows)), key=lambda number: len(unit.rows[number].ids))
    length = len(unit.rows[longest].ids)
    if length <= max_tokens:
        return unit
    match overlong:
        case "error":
            side = f" with its {row.answers[longest]}" if isinstance(row, Answered) and row.answers else ""
            raise DataError(
                "overlong_row",
                f"{where}: {length} tokens{side}, but a row may have {max_tokens}; shorten it, "
                "or choose overlong: truncate or drop",
                param="overlong",
            )
        case "truncate":
            return unit._replace(rows=tuple(Rendered(r.ids[:max_tokens], r.mask[:max_tokens]) for r in unit.rows))
        case "drop":
            return None
        case _:
            assert_never(overlong)
