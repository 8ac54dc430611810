"""Pairs and labelled answers become units; every rule about rows holds for both sides of a pair."""

import json
from pathlib import Path
from typing import Any

import pytest

from train.making import row, write_rows
from train.preferences import labelled, pair
from tunewise.contracts.run import BaseModelRef, DpoObjective, KtoObjective, Objective, SupervisedObjective
from tunewise.data.template import Template
from tunewise.errors import DataError
from tunewise.train.rows import Loaded, load_rows

DPO = DpoObjective(beta=0.1, loss="sigmoid")
KTO = KtoObjective(beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)
LONG = [{"role": "assistant", "content": "word " * 200}]


@pytest.fixture(scope="module")
def template(tiny_model: BaseModelRef) -> Template:
    return Template.load(tiny_model.path)


def loaded(path: Path, template: Template, rows: list[str], objective: Objective = DPO, **limits: Any) -> Loaded:  # noqa: ANN401
    settings = {"max_tokens": 512, "overlong": "error", **limits}
    return load_rows(write_rows(path, rows), template, objective, **settings)


def trained_text(template: Template, unit: Any, side: int) -> str:  # noqa: ANN401
    rendered = unit.rows[side]
    return template.decode([i for i, on in zip(rendered.ids, rendered.mask, strict=True) if on], skip_special=False)


def test_only_the_compared_answers_are_trained_on(template: Template, tmp_path: Path) -> None:
    # The third question stands in a conversation that holds an answer already.
    unit = loaded(tmp_path / "pairs.jsonl", template, [pair(2)]).units[0]
    given = json.loads(pair(2))
    for side, name in enumerate(("preferred_output", "non_preferred_output")):
        assert trained_text(template, unit, side) == given[name][0]["content"] + "<|im_end|>"
    asked = unit.rows[0].mask.index(1)
    assert unit.rows[0].ids[:asked] == unit.rows[1].ids[:asked]


def test_the_older_names_of_both_answers_mean_the_same(template: Template, tmp_path: Path) -> None:
    older = pair(4).replace("preferred_output", "preferred_completion")
    assert "non_preferred_completion" in older
    of_older = loaded(tmp_path / "older.jsonl", template, [older]).units
    assert of_older == loaded(tmp_path / "pairs.jsonl", template, [pair(4)]).units


@pytest.mark.parametrize("side", ["preferred_output", "non_preferred_output"])
def test_an_overlong_side_is_named(side: str, template: Template, tmp_path: Path) -> None:
    rows = [pair(1), pair(2, **{side: LONG})]
    with pytest.raises(DataError, match=rf"pairs\.jsonl, line 2: \d+ tokens with its {side}, but") as caught:
        loaded(tmp_path / "pairs.jsonl", template, rows, max_tokens=150)
    assert caught.value.code == "overlong_row"


@pytest.mark.parametrize("side", ["preferred_output", "non_preferred_output"])
def test_a_pair_with_one_overlong_side_is_dropped_or_cut_as_one(side: str, template: Template, tmp_path: Path) -> None:
    rows = [pair(1), pair(2, **{side: LONG})]
    dropped = loaded(tmp_path / "pairs.jsonl", template, rows, max_tokens=150, overlong="drop")
    assert (dropped.counts.trained, dropped.counts.dropped, dropped.counts.truncated) == (1, 1, 0)
    cut = loaded(tmp_path / "pairs.jsonl", template, rows, max_tokens=150, overlong="truncate")
    assert (cut.counts.trained, cut.counts.dropped, cut.counts.truncated) == (2, 0, 1)
    assert sorted(len(side.ids) for side in cut.units[1].rows)[1] == 150


def test_a_pair_of_which_one_side_is_cut_before_its_answer_has_nothing_to_prefer(
    template: Template, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="none of 1 rows has an answer") as caught:
        loaded(tmp_path / "pairs.jsonl", template, [pair(2)], max_tokens=30, overlong="truncate")
    assert caught.value.code == "nothing_to_train_on"


def test_a_pair_whose_answers_differ_only_behind_the_cut_has_nothing_to_prefer(
    template: Template, tmp_path: Path
) -> None:
    longer = [{"role": "assistant", "content": "word " * 201}]
    rows = [pair(1), pair(2, preferred_output=LONG, non_preferred_output=longer)]
    counts = loaded(tmp_path / "pairs.jsonl", template, rows, max_tokens=150, overlong="truncate").counts
    assert (counts.rows, counts.trained, counts.nothing_to_train_on) == (2, 1, 1)


def test_a_pair_with_an_answer_of_weight_0_has_nothing_to_prefer(template: Template, tmp_path: Path) -> None:
    silent = [{"role": "assistant", "content": "no", "weight": 0}]
    counts = loaded(tmp_path / "pairs.jsonl", template, [pair(1), pair(2, preferred_output=silent)]).counts
    assert (counts.trained, counts.nothing_to_train_on) == (1, 1)


def test_labels_and_both_forms_of_labelled_answers_are_read(template: Template, tmp_path: Path) -> None:
    rows = [labelled(n) for n in range(4)]
    units = loaded(tmp_path / "rows.jsonl", template, rows, KTO).units
    assert [unit.wanted for unit in units] == [True, False, True, False]
    parted = []
    for text in rows:
        *asked, answer = (given := json.loads(text))["messages"]
        parted.append(json.dumps({"prompt": asked, "completion": [answer], "label": given["label"]}))
    assert loaded(tmp_path / "parted.jsonl", template, parted, KTO).units == units
    texts = [json.dumps({"prompt": "a", "completion": "b", "label": True})] * 2
    unit = loaded(tmp_path / "texts.jsonl", template, texts, KTO).units[0]
    assert trained_text(template, unit, 0) == "b<|im_end|>"


@pytest.mark.parametrize(
    ("objective", "line", "held"),
    [
        (DPO, row(1), "conversations, and the method dpo trains on preference pairs; ask for the method supervised"),
        (
            DPO,
            labelled(1),
            "answers with a label, and the method dpo trains on preference pairs; ask for the method kto",
        ),
        (
            KTO,
            pair(1),
            "preference pairs, and the method kto trains on answers with a label; ask for the method dpo or",
        ),
        (KTO, row(1), '.* or give each row a "label"'),
        (SupervisedObjective(), labelled(1), ".* or convert the wanted answers: tunewise data convert FILE --to chat"),
        (SupervisedObjective(), pair(1), ".* or convert the better answers: tunewise data convert FILE --to chat"),
    ],
)
def test_a_file_of_another_method_is_refused_by_name(
    objective: Objective, line: str, held: str, template: Template, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl: holds {held}") as caught:
        loaded(tmp_path / "rows.jsonl", template, [line], objective)
    assert caught.value.code == "invalid_file_format"
