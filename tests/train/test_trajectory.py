"""The fast path's losses equal a plain path's, step for step, and do not depend on how a step is split."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM

from train.making import SUPERVISED, row, write_rows
from tunewise.contracts.run import BaseModelRef, LoraSpec
from tunewise.data.template import Rendered, Template
from tunewise.errors import TrainingError
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.train import step
from tunewise.train.criterion import Tally, Unit
from tunewise.train.methods.supervised import TokenCriterion
from tunewise.train.plan import parts, step_rows
from tunewise.train.rows import load_rows
from tunewise.train.step import accumulate_gradients, clip_gradients, evaluate

STEPS, BATCH, RATE, SEED = 20, 8, 1e-2, 0
CRITERION = TokenCriterion(share_prefixes=True)
SPEC = LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear")


@pytest.fixture(scope="module")
def units(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> list[Unit]:
    file = write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", [row(n, answers=1 + n % 2) for n in range(24)])
    return load_rows(file, Template.load(tiny_model.path), SUPERVISED, max_tokens=512, overlong="error").units


def fast_losses(tiny_model: BaseModelRef, units: list[Unit]) -> list[float]:
    base = load_frozen(tiny_model, "float32")
    torch.manual_seed(SEED)
    weights = [weight for weight in add_adapter(base, SPEC).parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, fused=True)
    losses = []
    for n in range(STEPS):
        losses.append(
            accumulate_gradients(base, CRITERION, units, step_rows(len(units), BATCH, seed=SEED, step=n)).loss
        )
        clip_gradients(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def plain_losses(tiny_model: BaseModelRef, units: list[Unit]) -> list[float]:
    """transformers, PEFT, a padded batch, whole logits, cross_entropy."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model.path, dtype=torch.float32)
    torch.manual_seed(SEED)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE)
    losses = []
    for n in range(STEPS):
        chosen = [units[at].rows[0] for at in step_rows(len(units), BATCH, seed=SEED, step=n)]
        loss = padded_loss(model, chosen)
        losses.append(loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def padded_loss(model: torch.nn.Module, chosen: list[Rendered]) -> torch.Tensor:
    width = max(len(each.ids) for each in chosen)
    ids = torch.tensor([each.ids + [0] * (width - len(each.ids)) for each in chosen])
    seen = torch.tensor([[1] * len(each.ids) + [0] * (width - len(each.ids)) for each in chosen])
    trained = torch.tensor([each.mask + [0] * (width - len(each.mask)) for each in chosen])
    logits = model(input_ids=ids, attention_mask=seen).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids.masked_fill(trained == 0, -100)[:, 1:].flatten())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_twenty_steps_equal_the_plain_path(tiny_model: BaseModelRef, units: list[Unit]) -> None:
    plain = plain_losses(tiny_model, units)
    assert fast_losses(tiny_model, units) == pytest.approx(plain, rel=1e-5)
    assert plain[-1] < 0.97 * plain[0]


@pytest.mark.parametrize("part_tokens", [1, 100])
def test_gradients_do_not_depend_on_the_split(
    part_tokens: int, tiny_model: BaseModelRef, units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> tuple[list[torch.Tensor], Tally]:
        base = load_frozen(tiny_model, "float32")
        torch.manual_seed(SEED)
        weights = [weight for weight in add_adapter(base, SPEC).parameters() if weight.requires_grad]
        torch.nn.init.normal_(weights[1], std=0.02)
        tally = accumulate_gradients(base, CRITERION, units, range(BATCH))
        return [weight.grad for weight in weights if weight.grad is not None], tally

    together, whole = gradients()
    monkeypatch.setattr(step, "parts", lambda chosen, cost: parts(chosen, cost, part_tokens))
    apart, split = gradients()
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-7)
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)
    assert (split.correct, split.supervised, split.tokens) == (whole.correct, whole.supervised, whole.tokens)


def test_bfloat16_losses_stay_within_two_per_cent(tiny_model: BaseModelRef, units: list[Unit]) -> None:
    exact, rounded = load_frozen(tiny_model, "float32"), load_frozen(tiny_model, "bfloat16")
    chosen = range(len(units))
    assert evaluate(rounded, CRITERION, units, chosen).loss == pytest.approx(
        evaluate(exact, CRITERION, units, chosen).loss, rel=0.02
    )


def test_a_loss_that_is_not_finite_is_named(tiny_model: BaseModelRef, units: list[Unit]) -> None:
    base = load_frozen(tiny_model, "float32")
    weights = [weight for weight in add_adapter(base, SPEC).parameters() if weight.requires_grad]
    torch.nn.init.constant_(weights[1], float("inf"))
    with pytest.raises(TrainingError, match="lower the learning rate") as caught:
        accumulate_gradients(base, CRITERION, units, range(BATCH))
    assert caught.value.code == "loss_not_finite"


def test_evaluation_leaves_no_gradient_and_no_mode_behind(
    tiny_model: BaseModelRef, units: list[Unit], tmp_path: Path
) -> None:
    base = load_frozen(tiny_model, "float32")
    adapted = add_adapter(base, SPEC)
    adapted.train()
    tally = evaluate(base, CRITERION, units, range(3))
    assert tally.supervised == sum(sum(units[n].rows[0].mask[1:]) for n in range(3))
    assert base.training
    assert all(weight.grad is None for weight in adapted.parameters())
