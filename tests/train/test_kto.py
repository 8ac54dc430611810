"""KTO against TRL's trainer, and the rows on which a run's drift is measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from train.making import write_rows
from train.preferences import labelled, referenced, small_model
from train.trl_oracle import BATCH, begun, in_order, ours, theirs
from tunewise.contracts.run import BaseModelRef, DataFile, KtoObjective
from tunewise.data.template import Rendered, Template
from tunewise.train.criterion import Unit
from tunewise.train.methods.kto import KtoCriterion
from tunewise.train.rows import load_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
ROWS, STEPS = 20, 25
OBJECTIVE = KtoObjective(beta=0.2, desirable_weight=1.5, undesirable_weight=0.7)


@pytest.fixture(scope="module")
def model(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    return small_model(tiny_model, tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> DataFile:
    return write_rows(tmp_path_factory.mktemp("rows") / "labelled.jsonl", [labelled(n) for n in range(ROWS)])


@pytest.fixture(scope="module")
def units(model: BaseModelRef, file: DataFile) -> list[Unit]:
    return load_rows(file, Template.load(model.path), OBJECTIVE, max_tokens=512, overlong="error").units


def trl_row(number: int) -> dict[str, Any]:
    row = json.loads(labelled(number))
    *asked, answer = row["messages"]
    return {"prompt": asked, "completion": [answer], "label": row["label"]}


def halves(row: Rendered) -> tuple[list[int], list[int]]:
    answer = row.mask.index(1)
    end = len(row.mask) - row.mask[::-1].index(1)
    return row.ids[:answer], row.ids[answer:end]


def turned(units: list[Unit]) -> list[Unit]:
    """The questions of each four units with each other's answers, as TRL turns them round."""
    made = []
    for at, unit in enumerate(units):
        question, _ = halves(unit.rows[0])
        _, answer = halves(units[at - at % BATCH + (at - 1) % BATCH].rows[0])
        row = Rendered(question + answer, [0] * len(question) + [1] * len(answer))
        made.append(unit._replace(mismatched=(row,)))
    return made


def test_steps_equal_those_of_trl(model: BaseModelRef, units: list[Unit], tmp_path: Path) -> None:
    order = in_order(ROWS, STEPS)
    settings = OBJECTIVE.model_dump(exclude={"type"})
    expected = theirs(KTOTrainer, KTOConfig, model, [trl_row(number) for number in order], tmp_path, **settings)
    taken = referenced(begun(model)[0], turned([units[number] for number in order]))
    told = ours(model, taken, KtoCriterion(**settings, share_prefixes=True), list(range(len(order))))
    assert len(expected.losses) == STEPS
    assert told.losses == pytest.approx(expected.losses, rel=1e-4)
    assert told.norms == pytest.approx(expected.norms, rel=1e-4)


def test_a_question_is_measured_with_the_answer_to_another(units: list[Unit]) -> None:
    asked = [halves(unit.rows[0]) for unit in units]
    for at, unit in enumerate(units):
        question, answer = halves(unit.mismatched[0])
        assert question == asked[at][0]
        # Two rows in turn answer one question, so the one before, or the one before that, answers another.
        assert answer == asked[at - 1 - at % 2][1]
        assert question != asked[at - 1 - at % 2][0]


def test_mismatched_rows_are_cut_where_rows_end(model: BaseModelRef, file: DataFile) -> None:
    template = Template.load(model.path)
    longest = max(
        len(unit.rows[0].ids) for unit in load_rows(file, template, OBJECTIVE, max_tokens=512, overlong="error").units
    )
    units = load_rows(file, template, OBJECTIVE, max_tokens=longest - 5, overlong="truncate").units
    assert max(len(unit.mismatched[0].ids) for unit in units) <= longest - 5
    assert all(any(unit.mismatched[0].mask) for unit in units)


def test_questions_that_are_all_the_same_are_measured_with_the_answer_before(
    model: BaseModelRef, tmp_path: Path
) -> None:
    said = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": word}]} for word in "abc"]
    file = write_rows(tmp_path / "same.jsonl", [json.dumps(row | {"label": True}) for row in said])
    units = load_rows(file, Template.load(model.path), OBJECTIVE, max_tokens=512, overlong="error").units
    answers = [halves(unit.rows[0])[1] for unit in units]
    assert [halves(unit.mismatched[0])[1] for unit in units] == [answers[-1], *answers[:-1]]
