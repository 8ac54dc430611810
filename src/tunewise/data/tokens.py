"""A file in a base model's tokens: how long its rows are, what of them is trained on, and which are too long.

Knows the template and the limit; what is done with an over-long row the caller has chosen.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, assert_never

from tunewise.contracts.chat import ChatExample, PlainText
from tunewise.contracts.check import Distribution, FittedRows, InspectedRow, InspectedToken, RowFormat
from tunewise.contracts.fine_tuning import LossOn, Overlong
from tunewise.data.documents import blocks, document_chunks
from tunewise.data.formats import Row, examples_of
from tunewise.data.problems import Problem
from tunewise.data.reader import open_checked, read_span, spans
from tunewise.data.scan import validate
from tunewise.data.template import Rendered, Template
from tunewise.errors import DataError

BATCH_ROWS = 256
HISTOGRAM_BINS = 20
INSPECTED_TOKENS = 512


class TokenCounts(NamedTuple):
    """Rows by their number of tokens, and by those of them that carry loss; and the problems by line from 1.

    `fitted` counts the rows by the tokens that training would take of them; dropped rows are not in it.
    """

    tokens: Counter[int]
    trained: Counter[int]
    fitted: Counter[int]
    overlong: int
    nothing_to_train_on: int
    problems: list[tuple[int, Problem]]


def good_chats(path: Path, row_format: RowFormat) -> Iterator[tuple[int, tuple[ChatExample, ...]]]:
    """The conversations of each row without errors, with their line numbers: of a pair both."""
    return ((line, examples_of(row)) for line, row in _good_rows(path, row_format))


def good_texts(path: Path) -> Iterator[tuple[int, str]]:
    """The documents without errors, with their line numbers."""
    return ((line, row.text) for line, row in _good_rows(path, "text") if isinstance(row, PlainText))


def _good_rows(path: Path, row_format: RowFormat) -> Iterator[tuple[int, Row]]:
    line = 1
    for span in spans(path, open_checked(path)):
        checked = validate(read_span(path, span), row_format)
        yield from zip((line + index for index in checked.indices), checked.rows, strict=True)
        line += checked.lines


def count_tokens(
    path: Path, row_format: RowFormat, template: Template, max_tokens: int, overlong: Overlong | None, loss_on: LossOn
) -> TokenCounts:
    """Render every good row. `overlong` is None for test rows, which are asked and never trained on.

    No document is too long: it is cut, and `fitted` counts the blocks that all of them fill.
    """
    counts = TokenCounts(Counter(), Counter(), Counter(), 0, 0, [])
    if row_format == "text":
        return _count_texts(counts, path, template, max_tokens)
    rows = good_chats(path, row_format)
    while batch := list(islice(rows, BATCH_ROWS)):
        rendered = iter(template.render_batch([example for _, examples in batch for example in examples], loss_on))
        for line, examples in batch:
            counts = _counted(counts, line, list(islice(rendered, len(examples))), max_tokens, overlong)
    return counts


def _count_texts(counts: TokenCounts, path: Path, template: Template, max_tokens: int) -> TokenCounts:
    texts = good_texts(path)
    lengths: list[int] = []
    while batch := list(islice(texts, BATCH_ROWS)):
        for chunks in document_chunks(template, [text for _, text in batch], max_tokens):
            lengths += [len(chunk.ids) for chunk in chunks]
            counts.tokens[sum(len(chunk.ids) for chunk in chunks)] += 1
            counts.trained[sum(sum(chunk.mask) for chunk in chunks)] += 1
    counts.fitted.update(sum(lengths[chunk] for chunk in block) for block in blocks(lengths, max_tokens))
    return counts


def _counted(
    counts: TokenCounts, line: int, row: list[Rendered | DataError], max_tokens: int, overlong: Overlong | None
) -> TokenCounts:
    """Count a row: of a pair both sides together, but each of them may have `max_tokens`."""
    sides = [side for side in row if isinstance(side, Rendered)]
    refused = next((side for side in row if isinstance(side, DataError)), None)
    if refused is not None:
        problem = Problem("error", refused.code, *_split_remedy(refused.message), refused.param)
        counts.problems.append((line, problem))
        return counts._replace(nothing_to_train_on=counts.nothing_to_train_on + 1)
    lengths = [len(side.ids) for side in sides]
    counts.tokens[sum(lengths)] += 1
    counts.trained[sum(sum(side.mask) for side in sides)] += 1
    cut_off = not all(any(side.mask[:max_tokens]) for side in sides)
    taken = _taken(lengths, max_tokens, overlong, cut_off=cut_off)
    if taken:
        counts.fitted[taken] += 1
    longest = max(lengths)
    if longest <= max_tokens:
        return counts
    counts.problems.append((line, _overlong(longest, max_tokens, overlong, cut_off=cut_off)))
    nothing = int(overlong == "truncate" and cut_off)
    return counts._replace(overlong=counts.overlong + 1, nothing_to_train_on=counts.nothing_to_train_on + nothing)


def _taken(lengths: list[int], limit: int, overlong: Overlong | None, *, cut_off: bool) -> int:
    """Tokens of a row that training takes; 0 where it leaves the row out."""
    if max(lengths) <= limit or overlong in {"error", None}:
        return sum(lengths)
    return 0 if overlong == "drop" or cut_off else sum(min(length, limit) for length in lengths)


def fitted_rows(counts: TokenCounts) -> FittedRows:
    """What training would take of a file."""
    fitted = counts.fitted
    tokens = sum(length * rows for length, rows in fitted.items())
    return FittedRows(rows=fitted.total(), tokens=tokens, longest=max(fitted, default=0))


def _split_remedy(message: str) -> tuple[str, str]:
    what, _, remedy = message.rpartition("; ")
    return what, remedy


def _overlong(length: int, limit: int, overlong: Overlong | None, *, cut_off: bool) -> Problem:
    words = f"the row is {length} tokens long, the limit is {limit}"
    match overlong:
        case "error":
            remedy = "shorten it, raise --max-tokens, or choose --overlong truncate or drop"
            return Problem("error", "overlong", words, remedy, "messages", str(length))
        case "truncate" if cut_off:
            words += "; cut there, nothing of its answer is left to train on"
            return Problem("warning", "overlong", words, "shorten the prompt", "messages", str(length))
        case "truncate":
            words += f"; its last {length - limit} tokens are cut off"
            return Problem("warning", "overlong", words, "shorten it to keep its end", "messages", str(length))
        case "drop":
            return Problem(
                "warning", "overlong", f"{words}; it is left out", "shorten it to keep it", "messages", str(length)
            )
        case None:
            words = f"question and answer are {length} tokens long, the model's context is {limit}"
            remedy = "shorten the question, or choose a base model with a longer context; as it is the answer is cut"
            return Problem("warning", "overlong", words, remedy, "messages", str(length))
        case _:
            assert_never(overlong)


def distribution(counts: Counter[int]) -> Distribution | None:
    """The distribution of a count per row; percentiles by the nearest rank. None without rows."""
    rows = counts.total()
    if not rows:
        return None
    least, most = min(counts), max(counts)
    total = sum(value * n for value, n in counts.items())
    return Distribution(
        minimum=least,
        p5=_rank(counts, 0.05),
        mean=total / rows,
        median=_rank(counts, 0.5),
        p95=_rank(counts, 0.95),
        maximum=most,
        total=total,
        histogram=_histogram(counts, least, most),
    )


def _rank(counts: Counter[int], share: float) -> int:
    wanted, seen = share * counts.total(), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    raise AssertionError("no rows")


def _histogram(counts: Counter[int], least: int, most: int) -> tuple[int, ...]:
    bins = [0] * HISTOGRAM_BINS
    for value, n in counts.items():
        bins[min(HISTOGRAM_BINS - 1, (value - least) * HISTOGRAM_BINS // max(most - least, 1))] += n
    return tuple(bins)


def inspect_rows(
    path: Path, row_format: RowFormat, template: Template, loss_on: LossOn, limit: int = 3
) -> tuple[InspectedRow, ...]:
    """The label inspector's view of a file's first good rows; of documents, of their beginnings."""
    rendered: list[tuple[int, Rendered | DataError]]
    if row_format == "text":
        texts = islice(good_texts(path), limit)
        rendered = [(line, document_chunks(template, [text], INSPECTED_TOKENS)[0][0]) for line, text in texts]
    else:
        rows = islice(good_chats(path, row_format), limit)
        rendered = [(line, template.render_batch(examples[:1], loss_on)[0]) for line, examples in rows]
    return tuple(
        InspectedRow(file=path.name, line=line, tokens=_inspected(template, row))
        for line, row in rendered
        if isinstance(row, Rendered)
    )


def _inspected(template: Template, row: Rendered) -> tuple[InspectedToken, ...]:
    pairs = zip(template.pieces(row.ids), row.mask, strict=True)
    return tuple(InspectedToken(text=text, trained=bool(trained)) for text, trained in pairs)
