"""Rows ready to train on: read from a frozen file, rendered, and counted. Knows nothing of batches."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, assert_never

from tunewise.contracts.chat import ChatExample
from tunewise.contracts.fine_tuning import Overlong
from tunewise.contracts.run import DataFile, RowCounts
from tunewise.data.formats import read_examples
from tunewise.data.template import Rendered, Template
from tunewise.errors import DataError, TrainingError
from tunewise.train.criterion import Unit

RENDER_ROWS = 1024


class Loaded(NamedTuple):
    """The units of one file that are trained on, in the file's order, and what became of the other rows."""

    units: list[Unit]
    counts: RowCounts


def load_rows(file: DataFile, template: Template, *, max_tokens: int, overlong: Overlong) -> Loaded:
    """Read, render and fit every row of a file.

    Raises:
        TrainingError: missing_file, changed_file.
        DataError: a row cannot be read, overlong_row, nothing_to_train_on (no row is left).
    """
    check_frozen(file)
    units: list[Unit] = []
    seen = truncated = dropped = silent = 0
    for line, rendered in _rendered(file.path, template):
        seen += 1
        if rendered is None:
            silent += 1
            continue
        fitted = _fit(rendered, max_tokens, overlong, where=f"{file.path.name}, line {line}")
        truncated += fitted is not None and fitted is not rendered
        if fitted is None:
            dropped += 1
        elif any(fitted.mask[1:]):
            units.append(Unit((fitted,)))
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


def _rendered(path: Path, template: Template) -> Iterator[tuple[int, Rendered | None]]:
    """Line numbers and rendered rows; None where every assistant message has weight 0."""
    examples = iter(read_examples(path))
    while block := list(islice(examples, RENDER_ROWS)):
        yield from zip((line for line, _ in block), _render_block(path, block, template), strict=True)


def _render_block(path: Path, block: list[tuple[int, ChatExample]], template: Template) -> Iterator[Rendered | None]:
    for (line, _), rendered in zip(block, template.render_batch([example for _, example in block]), strict=True):
        if isinstance(rendered, Rendered):
            yield rendered
        elif rendered.code == "nothing_to_train_on":
            yield None
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
