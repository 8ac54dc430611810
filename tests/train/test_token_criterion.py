"""The loss of supervised tokens: row weights, smoothing and noise, and that no split of a step changes it."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from train.making import SUPERVISED, row, write_rows
from tunewise.contracts.run import BaseModelRef, LoraSpec, SupervisedObjective
from tunewise.data.template import Template
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.train import step
from tunewise.train.criterion import Tally, Unit
from tunewise.train.methods import criterion
from tunewise.train.methods.supervised import TokenCriterion
from tunewise.train.plan import parts
from tunewise.train.rows import load_rows
from tunewise.train.step import accumulate_gradients, evaluate

SPEC = LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear")
WEIGHTS = (0.25, 1.0, 3.0, None)


@pytest.fixture(scope="module")
def units(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> list[Unit]:
    rows = [row(n, row_weight=WEIGHTS[n % len(WEIGHTS)]) for n in range(8)]
    file = write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", rows)
    return load_rows(file, Template.load(tiny_model.path), SUPERVISED, max_tokens=512, overlong="error").units


def gradients(model: BaseModelRef, chosen: TokenCriterion, units: list[Unit]) -> tuple[list[torch.Tensor], Tally]:
    base = load_frozen(model, "float32")
    torch.manual_seed(0)
    weights = [weight for weight in add_adapter(base, SPEC).parameters() if weight.requires_grad]
    for up in weights[1::2]:
        torch.nn.init.normal_(up, std=0.02)
    tally = accumulate_gradients(base, chosen, units, range(len(units)))
    return [weight.grad for weight in weights if weight.grad is not None], tally


def test_the_loss_is_the_weighted_mean_of_the_tokens_losses(tiny_model: BaseModelRef, units: list[Unit]) -> None:
    smoothing = 0.1
    plain = load_frozen(tiny_model, "float32", attention="sdpa")
    total = size = 0.0
    for unit, weight in zip(units, WEIGHTS * 2, strict=True):
        (only,) = unit.rows
        labels = torch.tensor([i if on else -100 for i, on in zip(only.ids, only.mask, strict=True)])
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([only.ids])).logits[0]
        loss = cross_entropy(logits[:-1], labels[1:], reduction="sum", label_smoothing=smoothing)
        total += (weight or 1.0) * loss.item()
        size += (weight or 1.0) * sum(only.mask[1:])
    tally = evaluate(
        load_frozen(tiny_model, "float32"),
        TokenCriterion(share_prefixes=False, label_smoothing=smoothing),
        units,
        range(len(units)),
    )
    assert tally.size == size
    assert tally.loss == pytest.approx(total / size, rel=1e-6)
    assert tally.loss != pytest.approx(total / sum(sum(unit.rows[0].mask[1:]) for unit in units), rel=0.05)


def test_a_row_of_weight_2_counts_as_the_row_given_twice(tiny_model: BaseModelRef, units: list[Unit]) -> None:
    once = [unit._replace(weight=1.0) for unit in units]
    heavy, heavy_tally = gradients(
        tiny_model, TokenCriterion(share_prefixes=False), [once[0]._replace(weight=2.0), *once[1:]]
    )
    twice, twice_tally = gradients(tiny_model, TokenCriterion(share_prefixes=False), [once[0], *once])
    assert heavy_tally.loss == pytest.approx(twice_tally.loss, rel=1e-6)
    torch.testing.assert_close(heavy, twice, rtol=1e-4, atol=1e-7)
    # What is billed and what is right are counted by tokens, whatever their weight.
    assert heavy_tally.supervised == twice_tally.supervised - sum(once[0].rows[0].mask[1:])


@pytest.mark.parametrize("part_tokens", [1, 100])
def test_weights_and_smoothing_do_not_depend_on_the_split(
    part_tokens: int, tiny_model: BaseModelRef, units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, whole = gradients(tiny_model, TokenCriterion(share_prefixes=True, label_smoothing=0.2), units)
    monkeypatch.setattr(step, "parts", lambda chosen, cost: parts(chosen, cost, part_tokens))
    apart, split = gradients(tiny_model, TokenCriterion(share_prefixes=True, label_smoothing=0.2), units)
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-7)
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)


def test_noise_is_for_training_only(tiny_model: BaseModelRef, units: list[Unit]) -> None:
    noisy = criterion(SupervisedObjective(neftune_alpha=5.0), share_prefixes=True)
    model = load_frozen(tiny_model, "float32")
    every = range(len(units))
    exact = evaluate(model, TokenCriterion(share_prefixes=False), units, every).loss
    before = torch.get_rng_state()
    assert evaluate(model.train(), noisy, units, every).loss == exact
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        assert noisy.loss(model.train(), units).tally.loss != pytest.approx(exact, rel=1e-4)


def test_rows_with_noise_of_their_own_share_no_prefix() -> None:
    assert criterion(SupervisedObjective(), share_prefixes=True).share_prefixes
    assert not criterion(SupervisedObjective(neftune_alpha=5.0), share_prefixes=True).share_prefixes


def test_row_weights_are_read_from_the_file(units: list[Unit]) -> None:
    assert [unit.weight for unit in units] == [weight or 1.0 for weight in WEIGHTS * 2]


def test_loss_on_decides_what_is_trained_on(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", [row(n, answers=3) for n in range(3)])
    template = Template.load(tiny_model.path)
    supervised = {
        choice: [
            sum(unit.rows[0].mask)
            for unit in load_rows(
                file, template, SupervisedObjective(loss_on=choice), max_tokens=512, overlong="error"
            ).units
        ]
        for choice in ("assistant", "last_assistant", "all")
    }
    assert all(last * 3 == answers for last, answers in zip(*list(supervised.values())[1::-1], strict=True))
    assert all(answers < every for answers, every in zip(supervised["assistant"], supervised["all"], strict=True))
