"""Rows ready to train on: read from a frozen file, rendered, and counted. Knows nothing of batches."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, assert_never

from tunewise.contracts.chat import ChatExample
from tunewise.contracts.fine_tuning import LossOn, Overlong
from tunewise.contracts.run import DataFile, Objective, PretrainingObjective, RowCounts, SupervisedObjective
from tunewise.data.documents import blocks, document_chunks
from tunewise.data.formats import read_examples, read_texts
from tunewise.data.template import Rendered, Template
from tunewise.errors import DataError, TrainingError
from tunewise.train.criterion import Unit

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
        DataError: a row cannot be read, overlong_row, nothing_to_train_on (no row is left).
    """
    check_frozen(file)
    if isinstance(objective, PretrainingObjective):
        return _load_texts(file.path, template, max_tokens)
    units: list[Unit] = []
    seen = truncated = dropped = silent = 0
    for line, example, rendered in _rendered(file.path, template, _loss_on(objective)):
        seen += 1
        if rendered is None:
            silent += 1
            continue
        fitted = _fit(rendered, max_tokens, overlong, where=f"{file.path.name}, line {line}")
        truncated += fitted is not None and fitted is not rendered
        if fitted is None:
            dropped += 1
        elif any(fitted.mask[1:]):
            units.append(Unit((fitted,), weight=example.weight or 1.0))
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
    return Loaded(units, counts)


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


def _rendered(path: Path, template: Template, loss_on: LossOn) -> Iterator[tuple[int, ChatExample, Rendered | None]]:
    """Line numbers, rows and rendered rows; None where no message that carries loss has weight 1."""
    examples = iter(read_examples(path))
    while block := list(islice(examples, RENDER_ROWS)):
        yield from _render_block(path, block, template, loss_on)


def _render_block(
    path: Path, block: list[tuple[int, ChatExample]], template: Template, loss_on: LossOn
) -> Iterator[tuple[int, ChatExample, Rendered | None]]:
    outcomes = template.render_batch([example for _, example in block], loss_on)
    for (line, example), rendered in zip(block, outcomes, strict=True):
        if isinstance(rendered, Rendered):
            yield line, example, rendered
        elif rendered.code == "nothing_to_train_on":
            yield line, example, None
        else:
            raise DataError(rendered.code, f"{path.name}, line {line}: {rendered.message}", param=rendered.param)


def _fit(row: Rendered, max_tokens: int, overlong: Overlong, *, where: str) -> Rendered | None:
    """The row itself, its first `max_tokens` tokens, or None where it is to be left out."""
    if len(row.ids) <= max_tokens:
        return row
    match overlong:
        case "error":
            raise DataError(
                "overlong_row",
                f"{where}: {len(row.ids)} tokens, but a row may have {max_tokens}; shorten it, "
                "or choose overlong: truncate or drop",
                param="overlong",
            )
        case "truncate":
            return Rendered(row.ids[:max_tokens], row.mask[:max_tokens])
        case "drop":
            return None
        case _:
            assert_never(overlong)
