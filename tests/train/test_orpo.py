"""ORPO against the paper's formula over padded batches, and against TRL's odds ratio."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.nn.functional import log_softmax

from train.making import write_rows
from train.preferences import pair
from train.trl_oracle import BATCH, RATE, in_order, ours, plain, trained
from tunewise.contracts.run import BaseModelRef, OrpoObjective
from tunewise.data.template import Rendered, Template
from tunewise.train.criterion import Unit
from tunewise.train.methods.orpo import OrpoCriterion, log1mexp, log_odds
from tunewise.train.rows import load_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
PAIRS, STEPS, BETA = 24, 20, 0.3


@pytest.fixture(scope="module")
def units(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> list[Unit]:
    file = write_rows(tmp_path_factory.mktemp("rows") / "pairs.jsonl", [pair(n) for n in range(PAIRS)])
    objective = OrpoObjective(beta=BETA)
    return load_rows(file, Template.load(tiny_model.path), objective, max_tokens=512, overlong="error").units


def mean_logps(model: torch.nn.Module, rows: list[Rendered]) -> torch.Tensor:
    """By padded batch, whole logits and log_softmax."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    seen = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    mask = torch.tensor([row.mask + [0] * (width - len(row.mask)) for row in rows])[:, 1:]
    logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1]
    logps = log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
    means: torch.Tensor = (logps * mask).sum(-1) / mask.sum(-1)
    return means


def paper_loss(model: torch.nn.Module, units: list[Unit]) -> torch.Tensor:
    chosen = mean_logps(model, [unit.rows[0] for unit in units])
    rejected = mean_logps(model, [unit.rows[1] for unit in units])
    odds = chosen.exp() / (1 - chosen.exp()) / (rejected.exp() / (1 - rejected.exp()))
    return (-chosen - BETA * torch.sigmoid(odds.log()).log()).mean()


def test_steps_equal_the_formula_of_the_paper(tiny_model: BaseModelRef, units: list[Unit]) -> None:
    order = in_order(PAIRS, STEPS)
    told = ours(tiny_model, units, OrpoCriterion(beta=BETA, share_prefixes=True), order)
    model = plain(tiny_model)
    weights = trained(model)
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    losses, norms = [], []
    for at in range(0, len(order), BATCH):
        loss = paper_loss(model, [units[number] for number in order[at : at + BATCH]])
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(weights, 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
    assert told.losses == pytest.approx(losses, rel=1e-4)
    assert told.norms == pytest.approx(norms, rel=1e-4)
    assert told.losses[-1] < 0.95 * told.losses[0]


@pytest.mark.filterwarnings("ignore::trl.import_utils.TRLExperimentalWarning")
def test_the_odds_ratio_is_that_of_trl() -> None:
    from trl.experimental.orpo import ORPOTrainer

    trainer = SimpleNamespace(beta=BETA, accelerator=SimpleNamespace(device="cpu"))
    chosen, rejected = torch.tensor([-0.01, -1.0, -4.0]), torch.tensor([-2.0, -0.5, -9.0])
    losses, *_ = cast(Any, ORPOTrainer).odds_ratio_loss(trainer, chosen, rejected)
    expected = BETA * torch.nn.functional.logsigmoid(log_odds(chosen.double()) - log_odds(rejected.double()))
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("logp", [0.0, 1e-9, -1e-9, -1e-6, -0.5, -0.7, -40.0, -800.0])
def test_odds_and_their_gradient_are_finite_at_both_ends(logp: float) -> None:
    x = torch.tensor([logp], dtype=torch.float64, requires_grad=True)
    odds = log_odds(x)
    odds.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(odds).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_log1mexp_is_exact_where_its_forms_meet() -> None:
    x = torch.tensor([-1e-12, -1e-3, -0.69, -0.6931471805599453, -0.70, -30.0], dtype=torch.float64)
    expected = torch.tensor(
        [-27.6310211159, -6.9082552373, -0.6963094, -0.6931471805599453, -0.6863409, -9.3576229688e-14]
    )
    torch.testing.assert_close(log1mexp(x), expected.double(), rtol=1e-5, atol=1e-15)


def test_the_reward_is_beta_times_the_mean_log_probability(
    tiny_model: BaseModelRef, units: list[Unit], tmp_path: Path
) -> None:
    from tunewise.modeling.loading import load_frozen

    base = load_frozen(tiny_model, "float32")
    tally = OrpoCriterion(beta=BETA, share_prefixes=True).loss(base, units[:3]).tally
    with torch.no_grad():
        model = plain(tiny_model)
        model.disable_adapter_layers()
        means = mean_logps(model, [unit.rows[0] for unit in units[:3]])
    assert tally.chosen_reward == pytest.approx(BETA * means.sum().item(), rel=1e-5)
    assert (tally.chosen, tally.rejected, tally.compared) == (3, 3, 3)
