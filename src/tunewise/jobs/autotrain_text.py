"""Plain text in an AutoTrain file: trained on as there, token by token, and judged by how its texts go on.

AutoTrain's `sft` and `default` take a column of text as it is, with no roles, which is continued pre-training here.
Plain text asks nothing, so that each text that is kept out is asked by its first half and graded by its second.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tunewise.contracts.autotrain import KeyFate, Translation
from tunewise.contracts.importing import ColumnMapping, Detected
from tunewise.data.convert import way_of
from tunewise.data.tables.table import look, read_rows
from tunewise.errors import DataError
from tunewise.jobs.stages import write_whole

DEFAULT_COLUMN = "text"
# Of a text's beginning, so much is halved; a long question would leave no room in the context.
EXCERPT_CHARS = 800
LEAST_CHARS = 40
COMPLETION_TOKENS = 128
SPACE = re.compile(r"\s")
SUPERVISED, PRETRAINING = "training.method.supervised.", "training.method.pretraining."


def text_column(translation: Translation, found: Detected) -> str | None:
    """The column of plain text that the file trains on; None where its rows hold messages, or pairs."""
    column = translation.text_column or DEFAULT_COLUMN
    is_open = translation.text_column is None and found.mapping is not None
    kind = next((one.kind for one in found.columns if one.name == column), "")
    return column if translation.method == "supervised" and kind == "text" and not is_open else None


def as_pretraining(translation: Translation, column: str) -> Translation:
    """The same file, its rows taken for text."""
    training = translation.config["training"]
    settings = training["method"]["supervised"]
    method = {"type": "pretraining", "pretraining": settings}
    evaluation = {"max_completion_tokens": COMPLETION_TOKENS}
    return translation.model_copy(
        update={
            "method": "pretraining",
            "keys": tuple(map(_retold, translation.keys)),
            "config": {**translation.config, "training": {**training, "method": method}, "evaluation": evaluation},
            "text_column": column,
        }
    )


def _retold(key: KeyFate) -> KeyFate:
    became = key.became.replace(SUPERVISED, PRETRAINING)
    return key.model_copy(update={"became": became.replace("method.type: supervised", "method.type: pretraining")})


def write_texts(place: Path, split: str | None, column: str, out: Path) -> int:
    """One text a line; how many there are.

    Raises:
        DataError: a row cannot be read, or its column holds no text.
    """
    count = 0
    with out.open("wb") as file:
        for text in _texts(place, split, column):
            file.write(msgspec.json.encode({"text": text}) + b"\n")
            count += 1
    return count


def _texts(place: Path, split: str | None, column: str) -> Iterator[str]:
    for placed in read_rows(look(place, way_of(ColumnMapping(split=split)))):
        text = placed.row.fields.get(column)
        if placed.row.problem is not None or not isinstance(text, str):
            raise DataError(
                "wrong_type",
                f"{placed.file}, line {placed.row.line}: column {column!r} holds no text; remove the row",
                param="data.column_mapping.text_column",
            )
        if text.strip():
            yield text


def ask_by_halves(test: Path) -> int:
    """Turn the texts of a file into chats, the first half of each asked and the second answered; how many are left.

    Raises:
        DataError: too_few_rows, where no text is long enough to be halved.
    """
    texts = [str(msgspec.json.decode(line)["text"]) for line in test.read_bytes().splitlines()]
    chats = [chat for text in texts if (chat := _halved(text)) is not None]
    if not chats:
        raise DataError(
            "too_few_rows",
            f"none of the {len(texts)} texts that are kept out has {LEAST_CHARS} characters, so that nothing can be "
            "judged; give longer texts",
            param="data.path",
        )
    write_whole(test, "".join(f"{msgspec.json.encode(chat).decode()}\n" for chat in chats))
    return len(chats)


def _halved(text: str) -> dict[str, Any] | None:
    """A text's beginning as question and answer, parted at white space near its middle; None where it is too short."""
    excerpt = text.strip()[:EXCERPT_CHARS]
    if len(excerpt) < LEAST_CHARS:
        return None
    middle = len(excerpt) // 2
    space = SPACE.search(excerpt, middle, middle + middle // 2)
    cut = middle if space is None else space.start()
    messages = [
        {"role": "user", "content": excerpt[:cut].strip()},
        {"role": "assistant", "content": excerpt[cut:].strip()},
    ]
    return {"messages": messages}
