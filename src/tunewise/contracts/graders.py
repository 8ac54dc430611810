"""Graders: how an answer is scored, from 0 to 1. The first two are OpenAI's objects; the rest are ours.

Templates are OpenAI's: `{{ item.reference }}` is the last assistant message of the test row, `{{ item.x }}` a field of
the row's line in `data.test_items`, `{{ sample.output_text }}` the answer.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from tunewise.contracts.frozen import ConfigPath, Frozen

REFERENCE = "{{ item.reference }}"
OUTPUT = "{{ sample.output_text }}"


class Grader(Frozen):
    """What every grader has; `primary` marks the one that the verdict is about."""

    name: str = Field(min_length=1)
    primary: bool = False


class StringCheck(Grader):
    """1 if the comparison holds: eq, ne (equal or not), like, ilike (contains, with or without case)."""

    type: Literal["string_check"] = "string_check"
    input: str = OUTPUT
    reference: str = REFERENCE
    operation: Literal["eq", "ne", "like", "ilike"] = "eq"


class TextSimilarity(Grader):
    """Similarity of two texts by a published measure; `cosine`: of their embeddings, 0 where it is below."""

    type: Literal["text_similarity"] = "text_similarity"
    input: str = OUTPUT
    reference: str = REFERENCE
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l", "cosine"
    ] = "fuzzy_match"


class ExactMatch(Grader):
    """1 if answer and reference are equal once stripped of surrounding white space."""

    type: Literal["exact_match"] = "exact_match"
    reference: str = REFERENCE


class Label(Grader):
    """Classification: accuracy per row; macro-F1 and the share of answers outside `labels` over all rows."""

    type: Literal["label"] = "label"
    reference: str = REFERENCE
    labels: tuple[str, ...] | ConfigPath | None = Field(
        default=None,
        description="The allowed labels, or a JSON file with the list; by default those of the train rows.",
    )


class JsonSetF1(Grader):
    """F1 between two JSON lists of strings taken as sets, lower-cased; an answer that is no JSON list scores 0."""

    type: Literal["json_set_f1"] = "json_set_f1"
    reference: str = REFERENCE


class TokenF1(Grader):
    """SQuAD's token F1 (Rajpurkar et al. 2016), the best of the references; `references` names a list in the item."""

    type: Literal["token_f1"] = "token_f1"
    reference: str = REFERENCE
    references: str | None = Field(default=None, description="Field of the item that holds a list of references.")


class NumberMatch(Grader):
    """1 if the last number after `marker` equals the reference's (commas and currency signs removed)."""

    type: Literal["number_match"] = "number_match"
    reference: str = REFERENCE
    marker: str = Field(default="####", description='Where the number stands; "" takes the last number of the text.')


class SqlExecution(Grader):
    """1 if the answer, run read-only on a SQLite file, gives the reference's rows (in order where it says ORDER BY)."""

    type: Literal["sql_execution"] = "sql_execution"
    database: ConfigPath
    reference: str = REFERENCE
    seconds: Annotated[float, Field(gt=0, le=60)] = 2.0


AnyGrader: TypeAlias = Annotated[
    StringCheck | TextSimilarity | ExactMatch | Label | JsonSetF1 | TokenF1 | NumberMatch | SqlExecution,
    Field(discriminator="type"),
]
