"""Runs of every method of preferences: whatever the parts and the interruptions, one and the same result."""

import random
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from train import test_resume
from train.making import events_of, log_of, make_run, make_spec, result_of, told, train, write_rows
from train.preferences import SPEC, labelled, pair, referenced
from tunewise.contracts.run import (
    ADAPTER_WEIGHTS_FILE,
    REFERENCE_FILE,
    BaseModelRef,
    DpoObjective,
    KtoObjective,
    LoraSpec,
    Objective,
    OrpoObjective,
    ParentAdapter,
    TrainSpec,
)
from tunewise.data.template import Template
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.train import step
from tunewise.train.criterion import Tally
from tunewise.train.methods import criterion
from tunewise.train.plan import parts
from tunewise.train.reference import read_reference
from tunewise.train.rows import load_rows
from tunewise.train.step import accumulate_gradients

OBJECTIVES: dict[str, Objective] = {
    "dpo": DpoObjective(beta=0.3, loss="sigmoid"),
    "ipo": DpoObjective(beta=0.3, loss="ipo"),
    "orpo": OrpoObjective(beta=0.3),
    "kto": KtoObjective(beta=0.3, desirable_weight=1.2, undesirable_weight=0.8),
}
RUN = ["dpo", "orpo", "kto"]


def lines(objective: Objective, numbers: range) -> list[str]:
    return [labelled(n) if isinstance(objective, KtoObjective) else pair(n) for n in numbers]


@pytest.mark.parametrize("method", OBJECTIVES)
@pytest.mark.parametrize("shares", [False, True])
def test_gradients_do_not_depend_on_the_split(
    shares: bool, method: str, tiny_model: BaseModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = OBJECTIVES[method]
    file = write_rows(tmp_path / "rows.jsonl", lines(objective, range(8)))
    units = load_rows(file, Template.load(tiny_model.path), objective, max_tokens=512, overlong="error").units
    base = load_frozen(tiny_model, "float32")
    torch.manual_seed(0)
    weights = [weight for weight in add_adapter(base, SPEC).parameters() if weight.requires_grad]
    units = referenced(base, units)
    torch.nn.init.normal_(weights[1], std=0.2)

    def gradients() -> tuple[list[torch.Tensor], Tally]:
        tally = accumulate_gradients(base, criterion(objective, share_prefixes=shares), units, range(len(units)))
        found = [weight.grad.clone() for weight in weights if weight.grad is not None]
        for weight in weights:
            weight.grad = None
        return found, tally

    together, whole = gradients()
    monkeypatch.setattr(step, "parts", lambda chosen, cost: parts(chosen, cost, 1))
    apart, split = gradients()
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-7)
    assert split == pytest.approx(whole, rel=1e-5, abs=3e-5)  # a sum of rewards may be near 0
    assert whole.chosen_reward != 0


@pytest.fixture(scope="module", params=RUN)
def spec(
    request: pytest.FixtureRequest, tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory
) -> TrainSpec:
    files = tmp_path_factory.mktemp("data")
    objective = OBJECTIVES[request.param]
    return make_spec(
        tiny_model,
        write_rows(files / "train.jsonl", lines(objective, range(16))),
        write_rows(files / "valid.jsonl", lines(objective, range(30, 36))),
        objective=objective,
        lora=LoraSpec(rank=4, alpha=8.0, dropout=0.1, targets="all-linear"),
        checkpoint_minutes=1e-9,
    )


@pytest.fixture(scope="module")
def straight(spec: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("straight") / "run", spec)
    assert train(run) == 0
    return run


@pytest.mark.parametrize("kill", range(2))
def test_a_killed_run_ends_in_the_same_weights(kill: int, spec: TrainSpec, straight: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec)
    killed_at = test_resume.kill_somewhere(run, random.Random(kill), most=11)
    assert not (run / "result.json").exists()
    assert train(run) == 0
    assert result_of(run).adapter_sha256 == result_of(straight).adapter_sha256, f"killed after {killed_at} events"
    assert told(run) == told(straight)
    assert test_resume.without_clock(run) == test_resume.without_clock(straight)


def test_steps_tell_rewards_and_epochs_those_of_the_validation_rows(spec: TrainSpec, straight: Path) -> None:
    steps = [event.data for event in events_of(straight) if event.type == "metrics" and event.data]
    assert len(steps) == 12
    first, last = steps[0], steps[-1]
    assert last.train_loss < first.train_loss
    assert last.full_valid_loss is not None
    for data in (first, last):
        if data.train_reward_margin is not None:
            assert data.train_reward_chosen is not None
            assert data.train_reward_rejected is not None
            assert data.train_reward_margin == pytest.approx(data.train_reward_chosen - data.train_reward_rejected)
    assert last.full_valid_reward_margin is not None
    assert last.full_valid_reward_accuracy is not None
    assert 0 <= last.full_valid_reward_accuracy <= 1
    assert (first.full_valid_reward_margin is None) == (first.full_valid_loss is None)
    assert result_of(straight).rows.trained == 16
    if spec.objective.type == "dpo":
        # Dropout alone tells the first step's weights from the reference, which knows none.
        assert first.train_loss == pytest.approx(0.6931, abs=0.05)


def test_references_are_computed_once_and_count_as_training_time(spec: TrainSpec, straight: Path) -> None:
    if spec.objective.type == "orpo":
        assert not (straight / REFERENCE_FILE).exists()
        return
    reference = read_reference(straight, spec)
    assert reference is not None
    assert (len(reference.train), len(reference.valid)) == (32, 12)
    assert result_of(straight).seconds > reference.seconds > 0


@pytest.fixture(scope="module")
def dpo(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    rows = write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", [pair(n) for n in range(12)])
    return make_spec(tiny_model, rows, objective=OBJECTIVES["dpo"], n_epochs=2)


@pytest.fixture(scope="module")
def finished(dpo: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("finished") / "run", dpo)
    assert train(run) == 0
    return run


def test_a_run_whose_references_are_gone_is_not_gone_on_with(dpo: TrainSpec, finished: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dpo)
    for kept in ("checkpoints", "events.jsonl"):
        (run / kept).symlink_to(finished / kept)
    assert train(run) == 5
    error = result_of(run).error
    assert error is not None
    assert (error.code, "remove the checkpoints to start again" in error.message) == ("missing_reference", True)


def test_references_of_other_rows_are_computed_anew(dpo: TrainSpec, finished: Path) -> None:
    assert read_reference(finished, dpo) is not None
    other = dpo.train_file.model_copy(update={"sha256": "0" * 64})
    assert read_reference(finished, dpo.model_copy(update={"train_file": other})) is None
    assert "unreadable" not in log_of(finished)


def test_the_reference_of_a_model_that_is_tuned_further_is_that_model(
    dpo: TrainSpec, finished: Path, tmp_path: Path
) -> None:
    parent = finished / "adapter"
    digest = sha256((parent / ADAPTER_WEIGHTS_FILE).read_bytes()).hexdigest()
    further = dpo.model_copy(update={"parent": ParentAdapter(path=parent, sha256=digest), "n_epochs": 1})
    run = make_run(tmp_path / "run", further)
    assert train(run) == 0
    ours, theirs = read_reference(run, further), read_reference(finished, dpo)
    assert ours is not None
    assert theirs is not None
    assert max(abs(one - other) for one, other in zip(ours.train, theirs.train, strict=True)) > 0.1
    first = events_of(run)[0].data
    assert first is not None
    assert first.train_loss == pytest.approx(0.6931472, abs=1e-5)
    assert first.train_reward_margin == pytest.approx(0.0, abs=1e-4)
