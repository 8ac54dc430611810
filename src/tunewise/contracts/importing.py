"""Importing: any table of rows to JSONL of chats, preference pairs or labelled answers.

What a file holds, which column is which, what came of it. `ColumnMapping` is the one form in which a person says what a
file means: the flags of `tunewise data convert`, the studio's page and the API's upload all fill it in. What it leaves
open is suggested where a file leaves no doubt, and asked where it does.
"""

from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field

from tunewise.contracts.check import Finding
from tunewise.contracts.frozen import Frozen

Target: TypeAlias = Literal["chat", "preference", "labelled"]
TableFormat: TypeAlias = Literal["jsonl", "json", "csv", "spreadsheet", "parquet", "arrow"]
Reasoning: TypeAlias = Literal["drop", "think"]
Role: TypeAlias = Literal[
    "messages", "prompt", "input", "completion", "system", "tools", "chosen", "rejected", "label", "keep"
]


class ColumnMapping(Frozen):
    """Which column is what. None: not said. An empty name: this file has no such column, whatever it looks like."""

    to: Target | None = Field(default=None, description="What the rows are to become.")
    messages: str | None = Field(default=None, description="A list of messages, in OpenAI's or ShareGPT's form.")
    prompt: str | None = Field(default=None, description="What the user says.")
    input: str | None = Field(default=None, description="What follows the prompt after a blank line (Alpaca's input).")
    completion: str | None = Field(default=None, description="What the assistant answers.")
    system: str | None = Field(default=None, description="The row's system message.")
    tools: str | None = Field(default=None, description="The functions that the assistant may call.")
    chosen: str | None = Field(default=None, description="The better answer: a text, a message or a conversation.")
    rejected: str | None = Field(default=None, description="The worse answer, in the same form.")
    label: str | None = Field(default=None, description="Whether the answer is wanted: true or false.")
    keep: str | None = Field(default=None, description="Rows where this column is false are left out.")
    system_text: str | None = Field(default=None, description="The system message of rows that bring none.")
    reasoning: Reasoning | None = Field(
        default=None, description="Reasoning parts of an answer: left out, or kept between <think> tags."
    )
    strip: bool = Field(default=False, description="Take white space from both ends of every prompt and answer.")
    split: str | None = Field(
        default=None, description="Of a directory or hub data set that has several; of a workbook: its sheet."
    )
    encoding: str | None = Field(default=None, description="Of a text file, where the detected one is wrong.")
    delimiter: str | None = Field(default=None, description="Of a table of text, where the detected one is wrong.")


class Column(Frozen):
    """A column, and what stands in it: up to three values of the first rows, shortened."""

    name: str
    kind: str = Field(description="text, number, true or false, list of messages, list, object or empty.")
    samples: tuple[str, ...]


class Choice(Frozen):
    """One answer to a question: the flag that gives it, and what it would mean."""

    value: str = Field(description="What the field of `ColumnMapping` becomes; empty: there is no such column.")
    flag: str = Field(description="As the command line takes it: --map prompt=question.")
    meaning: str


class Question(Frozen):
    """Something that the file leaves open and that only a person can say."""

    role: str = Field(description="The field of `ColumnMapping` that the answer fills.")
    asks: str
    choices: tuple[Choice, ...]


class Detected(Frozen):
    """What a file looks like. `mapping` is complete where nothing is open, else None."""

    path: Path
    format: TableFormat
    encoding: str | None = Field(description="None: not a text file.")
    delimiter: str | None = None
    sheets: tuple[str, ...] = Field(default=(), description="Of a workbook: those that hold anything.")
    sheet: str | None = Field(default=None, description="Of a workbook: the one that is read.")
    columns: tuple[Column, ...]
    rows: int
    rows_are_estimated: bool
    mapping: ColumnMapping | None
    reason: str = Field(description="Why the columns are taken so; empty where nothing was suggested.")
    questions: tuple[Question, ...] = ()
    unused: tuple[str, ...] = Field(default=(), description="Columns that the mapping does not name.")
    notes: tuple[str, ...] = Field(default=(), description="What was decided about the file, such as its encoding.")


class Converted(Frozen):
    """One row of a preview: the example that it becomes, or why it becomes none."""

    line: int = Field(description="Counts from 1; in Parquet and Arrow files and in sheets the row's number.")
    example: dict[str, Any] | None
    problems: tuple[Finding, ...] = ()


class Conversion(Frozen):
    """What came of converting a whole file."""

    path: Path
    to: Target
    mapping: ColumnMapping
    rows: int = Field(description="Rows that were read.")
    written: int
    left_out: int = Field(description="Rows that `keep` says are not wanted.")
    findings: tuple[Finding, ...] = Field(description="Each row that could not be converted; the first of each kind.")
    found: dict[str, int] = Field(description="All problems by code, listed or not.")
    ignored: dict[str, int] = Field(description="Fields that were not carried over, and in how many rows each stood.")
    sha256: str = Field(description="Of what was written.")
    bytes: int
