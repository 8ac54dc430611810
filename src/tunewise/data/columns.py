"""Which column is what: suggested from the columns' names and values where they leave no doubt, asked where they do.

Knows the words that people name columns with. Pure functions of columns; knows no files and builds no examples.
"""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from tunewise.contracts.importing import Choice, Column, ColumnMapping, Question, Role, Target
from tunewise.data.problems import shorten
from tunewise.data.tables.row import TableRow
from tunewise.data.turns import as_json, is_messages
from tunewise.errors import DataError

ROLES: tuple[Role, ...] = get_args(Role)
SAMPLES = 3
SAMPLE_CHARS = 80
WORDS: dict[Role, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "turns"),
    "prompt": ("prompt", "instruction", "question", "query", "user", "human", "input"),
    "completion": ("completion", "output", "response", "answer", "reply", "assistant", "target"),
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
    "chosen": ("chosen", "preferred", "preferred_output", "preferred_completion"),
    "rejected": ("rejected", "non_preferred", "non_preferred_output", "non_preferred_completion"),
    "label": ("label", "kto_tag"),
}
MEANINGS: dict[Role, str] = {
    "messages": "the list of messages",
    "prompt": "what the user says",
    "input": "what follows the prompt",
    "completion": "what the assistant answers",
    "system": "the system message",
    "tools": "the functions that may be called",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "label": "whether the answer is wanted",
    "keep": "whether the row is wanted",
}


class Suggestion(NamedTuple):
    """A complete mapping and why, or what has to be asked first."""

    mapping: ColumnMapping | None
    reason: str
    questions: tuple[Question, ...]


def describe(names: Sequence[str], head: Sequence[TableRow]) -> tuple[Column, ...]:
    """The columns with sample values."""
    return tuple(_column(name, [row.fields.get(name) for row in head]) for name in names)


def _column(name: str, values: list[Any]) -> Column:
    filled = [value for value in values if value not in (None, "", [], {})]
    samples = [shorten(v if isinstance(v, str) else _text(v), SAMPLE_CHARS) for v in filled[:SAMPLES]]
    return Column(name=name, kind=_kind(filled), samples=tuple(samples))


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _kind(values: list[Any]) -> str:
    kinds = {_kind_of(value) for value in values}
    return "empty" if not kinds else " or ".join(sorted(kinds))


def _kind_of(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "number"
        case str():
            return "list of messages" if value.startswith("[") and is_messages(as_json(value)) else "text"
        case list():
            return "list of messages" if is_messages(value) else "list"
        case dict():
            return "object"
        case _:
            return type(value).__name__


def spoken_of(mapping: ColumnMapping) -> dict[Role, str]:
    """The roles that a person spoke of, with the column or with nothing."""
    said = mapping.model_dump()
    return {role: said[role] for role in ROLES if said[role] is not None}


def named(mapping: ColumnMapping) -> dict[Role, str]:
    """The columns that a mapping names, by role."""
    return {role: name for role, name in spoken_of(mapping).items() if name}


def check_names(mapping: ColumnMapping, columns: Sequence[Column]) -> None:
    """Refuse columns that the table does not have, and one column for two roles.

    Raises:
        DataError: unknown_column or mapping_conflict.
    """
    names = [column.name for column in columns]
    said = named(mapping)
    for role, name in said.items():
        if name not in names:
            near = get_close_matches(name, names, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(map(repr, names))}"
            raise DataError("unknown_column", f"{role}={name}: there is no column {name!r}; {meant}", param=role)
        twice = next((other for other in said if other != role and said[other] == name), None)
        if twice is not None:
            raise DataError(
                "mapping_conflict",
                f"{role}={name}: the column is {twice} already; leave one of the two out",
                param=role,
            )


def suggest(columns: Sequence[Column], said: ColumnMapping) -> Suggestion:
    """Complete what a person said by what the columns' names leave no doubt of.

    Raises:
        DataError: unknown_column or mapping_conflict.
    """
    check_names(said, columns)
    found = _candidates(columns, said)
    to = said.to or _target(said, found)
    wanted = _wanted(to, said, found)
    picked: dict[Role, str] = dict(named(said))
    questions: list[Question] = []
    for role in wanted:
        names = found[role]
        if len(names) == 1:
            picked[role] = names[0]
        else:
            questions.append(_which(role, names or _free(columns, picked), columns))
    for role in ("system", "tools"):
        if len(found.get(role, [])) == 1:
            picked[role] = found[role][0]
    questions += _keep_question(columns, said, picked) if to == "chat" else []
    if questions:
        return Suggestion(None, "", tuple(questions))
    update: dict[str, str] = {"to": to, **{str(role): name for role, name in picked.items()}}
    mapping = said.model_copy(update=update)
    return Suggestion(mapping, _reason(picked, said), ())


def _candidates(columns: Sequence[Column], said: ColumnMapping) -> dict[Role, list[str]]:
    """For each role that was not spoken of, the columns whose names could mean it."""
    spoken = spoken_of(said)
    open_ones = [column for column in columns if column.name not in named(said).values()]
    free = [column for column in open_ones if column.kind != "empty"]
    found: dict[Role, list[str]] = {}
    for role, words in WORDS.items():
        # What may be missing in a row may be so in all of the first hundred.
        among = open_ones if role in {"system", "tools"} else free
        fitting = [column for column in among if normalised(column.name) in words]
        if role == "messages":
            fitting = [column for column in free if column.kind == "list of messages" and not _is_part(column)]
        found[role] = [] if role in spoken else [column.name for column in fitting]
    found["input"] = []
    prompts = [normalised(name) for name in found["prompt"]] + [normalised(said.prompt or "")]
    if "instruction" in prompts and said.input is None:
        beside = [column.name for column in open_ones if normalised(column.name) in {"input", "context"}]
        found["input"] = beside
        found["prompt"] = [name for name in found["prompt"] if name not in beside]
    return found


def _is_part(column: Column) -> bool:
    """Whether a column's name says that it holds a part of a conversation only."""
    parts: tuple[Role, ...] = ("prompt", "completion", "chosen", "rejected")
    return any(normalised(column.name) in WORDS[role] for role in parts)


def normalised(name: str) -> str:
    """A column's name without case, and with one separator."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _target(said: ColumnMapping, found: Mapping[Role, Sequence[str]]) -> Target:
    has_pair = all(named(said).get(role) or found[role] for role in ("chosen", "rejected"))
    return "preference" if has_pair else "labelled" if said.label else "chat"


def _wanted(to: Target, said: ColumnMapping, found: Mapping[Role, Sequence[str]]) -> list[Role]:
    """The roles that are still to be filled, in the order in which they are asked."""
    has_messages = bool(said.messages or found["messages"])
    if to == "preference":
        before: list[Role] = ["messages"] if has_messages else (["prompt"] if found["prompt"] else [])
        wanted: list[Role] = [*before, "chosen", "rejected"]
    else:
        wanted = ["messages"] if has_messages else ["prompt", "completion"]
    if to == "labelled":
        wanted.append("label")
    if found["input"]:
        wanted.append("input")
    spoken = spoken_of(said)
    return [role for role in wanted if role not in spoken]


def _free(columns: Sequence[Column], picked: Mapping[Role, str]) -> list[str]:
    return [column.name for column in columns if column.name not in picked.values() and column.kind != "empty"]


def _which(role: Role, names: Sequence[str], columns: Sequence[Column]) -> Question:
    samples = {column.name: ", ".join(map(repr, column.samples[:1])) for column in columns}
    return Question(
        role=role,
        asks=f"Which column is {MEANINGS[role]}?",
        choices=tuple(
            Choice(value=name, flag=f"--map {_flag(role, name)}", meaning=f"such as {samples[name]}") for name in names
        ),
    )


def _flag(role: Role, name: str) -> str:
    text = f"{role}={name}"
    return text if all(letter.isalnum() or letter in "=_-." for letter in text) else f"'{text}'"


def _keep_question(columns: Sequence[Column], said: ColumnMapping, picked: Mapping[Role, str]) -> list[Question]:
    """Rows with a verdict of true or false (KTO's form) hold bad answers too; what becomes of these is asked."""
    if said.keep is not None or "messages" not in picked:
        return []
    words = WORDS["label"]
    labels = [column for column in columns if normalised(column.name) in words and column.kind == "true or false"]
    if not labels:
        return []
    name = labels[0].name
    asks = (
        f"Column {name!r} says of each row whether its answer is good. Are the bad ones to be trained on? "
        "(As bad ones, for the method kto: --to labelled.)"
    )
    return [
        Question(
            role="keep",
            asks=asks,
            choices=(
                Choice(value=name, flag=f"--map {_flag('keep', name)}", meaning="no: only rows where it is true"),
                Choice(value="", flag="--map keep=", meaning="yes: all rows"),
            ),
        )
    ]


def _reason(picked: Mapping[Role, str], said: ColumnMapping) -> str:
    spoken = named(said)
    parts = []
    for role, name in picked.items():
        why = "as said" if role in spoken else "by its values" if role == "messages" else "by its name"
        parts.append(f"{role} is {name!r}, {why}")
    return "; ".join(parts)
