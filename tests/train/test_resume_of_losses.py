"""A run that is paused and opened again ends in the same bits as a straight one, whatever its loss."""

import json
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from train.making import WORDS, make_run, make_spec, result_of, row, told, write_rows
from tunewise.contracts.run import BaseModelRef, Objective, PretrainingObjective, SupervisedObjective, TrainSpec
from tunewise.train.run import finish, run_steps
from tunewise.train.session import Session, open_session

PAUSES = (1, 4)
OBJECTIVES: dict[str, Objective] = {
    "smoothing on every token": SupervisedObjective(label_smoothing=0.1, loss_on="all"),
    "noise on last answers": SupervisedObjective(neftune_alpha=5.0, loss_on="last_assistant"),
}


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    directory = tmp_path_factory.mktemp("data")
    rows = [row(n, answers=1 + n % 2, row_weight=(None, 0.5, 2)[n % 3]) for n in range(12)]
    valid = write_rows(directory / "valid.jsonl", [row(n) for n in range(100, 104)])
    return make_spec(tiny_model, write_rows(directory / "train.jsonl", rows), valid, n_epochs=2, threads=1)


def trained(directory: Path, spec: TrainSpec, pauses: tuple[int, ...] = ()) -> tuple[str, list[tuple[object, ...]]]:
    """Train, opened anew after each of the steps in `pauses`; the adapter's hash and what was told."""
    run = make_run(directory, spec)
    for at in pauses:
        session = open_session(run, spec)
        run_steps(session, partial(_has_come_to, session, at))
        session.journal.close()
        assert session.progress.step == at
    session = open_session(run, spec)
    run_steps(session, lambda: False)
    finish(session)
    session.journal.close()
    result = result_of(run)
    assert result.adapter_sha256 == sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    return result.adapter_sha256, told(run)


def _has_come_to(session: Session, step: int) -> bool:
    return session.progress.step >= step


@pytest.fixture(scope="module")
def plain(spec: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("plain") / "run", spec)[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_resumed_run_equals_a_straight_one(name: str, spec: TrainSpec, plain: str, tmp_path: Path) -> None:
    chosen = spec.model_copy(update={"objective": OBJECTIVES[name]})
    straight = trained(tmp_path / "straight", chosen)
    assert trained(tmp_path / "resumed", chosen, PAUSES) == straight
    assert straight[0] != plain


def test_a_resumed_run_on_plain_text_equals_a_straight_one(spec: TrainSpec, tmp_path: Path) -> None:
    texts = [json.dumps({"text": " ".join([word] * (5 + 40 * (n % 3)))}) for n, word in enumerate(WORDS)]
    file = write_rows(tmp_path / "text.jsonl", texts)
    chosen = spec.model_copy(
        update={"objective": PretrainingObjective(), "train_file": file, "valid_file": file, "max_tokens": 64}
    )
    straight = trained(tmp_path / "straight", chosen)
    assert trained(tmp_path / "resumed", chosen, PAUSES) == straight
