"""Continued pre-training: the loss of every token of every document, each document by itself."""

import json
import math
from pathlib import Path
from statistics import mean

import pytest
import torch
from torch.nn.functional import cross_entropy

from train.making import make_spec, result_of, write_rows
from tunewise.contracts.run import BaseModelRef, PretrainingObjective, TrainSpec
from tunewise.data.template import Template
from tunewise.errors import DataError
from tunewise.modeling.loading import load_frozen
from tunewise.train.methods import criterion
from tunewise.train.rows import load_rows
from tunewise.train.run import finish, run_steps
from tunewise.train.session import open_session
from tunewise.train.step import evaluate

BLOCK = 48
TEXTS = ["Snow " * 70, "Rain falls.", "The long river runs down to the sea " * 4, "é", "Wind, and no more of it."]


def text_row(text: str) -> str:
    return json.dumps({"text": text})


@pytest.fixture
def spec(tiny_model: BaseModelRef, tmp_path: Path) -> TrainSpec:
    train = write_rows(tmp_path / "train.jsonl", [text_row(text) for text in TEXTS])
    valid = write_rows(tmp_path / "valid.jsonl", [text_row(text[::-1]) for text in TEXTS[1:4]])
    return make_spec(
        tiny_model,
        train,
        valid,
        objective=PretrainingObjective(),
        max_tokens=BLOCK,
        n_epochs=6,
        batch_size=2,
        threads=1,
    )


def test_the_loss_of_blocks_is_that_of_their_documents_alone(spec: TrainSpec) -> None:
    template = Template.load(spec.base_model.path)
    loaded = load_rows(spec.train_file, template, spec.objective, max_tokens=BLOCK, overlong="error")
    assert loaded.counts.model_dump(exclude_defaults=True) == {
        "rows": 5, "trained": 5, "truncated": 0, "dropped": 0, "nothing_to_train_on": 0,
    }  # fmt: skip
    assert loaded.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert any(len(unit.rows) > 1 for unit in loaded.units)
    assert all(unit.tokens <= BLOCK for unit in loaded.units)
    plain = load_frozen(spec.base_model, "float32", attention="sdpa")
    total = 0.0
    for row in (row for unit in loaded.units for row in unit.rows):
        labels = torch.tensor([i if on else -100 for i, on in zip(row.ids, row.mask, strict=True)])
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([row.ids])).logits[0]
        total += cross_entropy(logits[:-1], labels[1:], reduction="sum").item()
    model = load_frozen(spec.base_model, "float32")
    tally = evaluate(model, criterion(spec.objective, share_prefixes=True), loaded.units, range(len(loaded.units)))
    assert tally.loss_sum == pytest.approx(total, rel=1e-6)
    # Every token of every text, and its end.
    assert tally.supervised == sum(len(template.encode(text)) + 1 for text in TEXTS)


def test_a_run_tells_bits_per_byte_of_the_validation_text(spec: TrainSpec, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    session = open_session(run, spec)
    run_steps(session, lambda: False)
    finish(session)
    session.journal.close()
    result = result_of(run)
    assert session.valid is not None
    tokens = sum(sum(row.mask[1:]) for unit in session.valid.units for row in unit.rows)
    assert result.valid_loss is not None
    assert result.valid_bits_per_byte == pytest.approx(
        result.valid_loss * tokens / math.log(2) / sum(len(text.encode()) for text in TEXTS[1:4])
    )
    told = [json.loads(line)["data"] for line in (run / "events.jsonl").read_text().splitlines()]
    losses = [data["train_loss"] for data in told if data]
    assert result.train_loss is not None
    assert result.train_loss < mean(losses[: session.steps_per_epoch])
    assert [data["full_valid_bits_per_byte"] for data in told if data][-1] == result.valid_bits_per_byte


def test_a_document_without_text_is_counted_and_left_out(spec: TrainSpec, tmp_path: Path) -> None:
    template = Template.load(spec.base_model.path)
    some = write_rows(tmp_path / "some.jsonl", [text_row("Hail."), text_row(" \n")])
    counts = load_rows(some, template, spec.objective, max_tokens=BLOCK, overlong="error").counts
    assert (counts.rows, counts.trained, counts.nothing_to_train_on) == (2, 1, 1)
    none = write_rows(tmp_path / "none.jsonl", [text_row("")])
    with pytest.raises(DataError, match="none of 1 documents holds a text"):
        load_rows(none, template, spec.objective, max_tokens=BLOCK, overlong="error")
