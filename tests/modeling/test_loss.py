"""The chunked head loss equals cross_entropy over whole logits."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from tunewise.modeling import loss, trained_head
from tunewise.modeling.loss import head_loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_loss_gradient_and_accuracy_equal_cross_entropy(
    chunk: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK_TOKENS", chunk)
    torch.manual_seed(0)
    hidden = torch.randn(23, 16, requires_grad=True)
    head, targets = torch.randn(101, 16), torch.randint(101, (23,))
    logits = hidden @ head.t()
    targets[::3] = logits.argmax(-1)[::3]
    ours = head_loss(hidden, head, targets, label_smoothing=smoothing)
    theirs = cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(ours.losses, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.correct, logits.argmax(-1) == targets)
    weights = torch.randn(23)
    torch.testing.assert_close(
        torch.autograd.grad(ours.losses @ weights, hidden),
        torch.autograd.grad(theirs @ weights, hidden),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(("chunk", "smoothing"), [(1, 0.0), (7, 0.2), (256, 0.0), (256, 0.1)])
def test_a_trained_head_has_the_gradient_of_cross_entropy(
    chunk: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_head, "CHUNK_TOKENS", chunk)
    torch.manual_seed(0)
    hidden, head = torch.randn(23, 16, requires_grad=True), torch.randn(101, 16, requires_grad=True)
    targets, weights = torch.randint(101, (23,)), torch.randn(23)
    logits = hidden @ head.t()
    targets[::3] = logits.argmax(-1)[::3]
    ours = head_loss(hidden, head, targets, label_smoothing=smoothing)
    theirs = cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(ours.losses, theirs)
    assert torch.equal(ours.correct, logits.argmax(-1) == targets)
    torch.testing.assert_close(
        torch.autograd.grad(ours.losses @ weights, (hidden, head)),
        torch.autograd.grad(theirs @ weights, (hidden, head)),
    )


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_trained", [True, False])
def test_a_bias_and_a_cap_on_the_logits_are_part_of_the_loss(
    cap: float | None, has_bias: bool, is_trained: bool
) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(23, 16, requires_grad=True), torch.randn(101, 16, requires_grad=is_trained)
    bias, targets = torch.randn(101, requires_grad=is_trained) if has_bias else None, torch.randint(101, (23,))
    inputs = [each for each in (hidden, head, bias) if each is not None and each.requires_grad]
    logits = torch.nn.functional.linear(hidden, head, bias)
    theirs = cross_entropy(logits if cap is None else torch.tanh(logits / cap) * cap, targets, reduction="none")
    ours = head_loss(hidden, head, targets, bias=bias, cap=cap).losses
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(23)
    torch.testing.assert_close(
        torch.autograd.grad(ours @ weights, inputs), torch.autograd.grad(theirs @ weights, inputs)
    )


def test_large_logits_do_not_overflow() -> None:
    hidden, head = torch.full((2, 4), 100.0, requires_grad=True), torch.eye(4) * 50
    ours = head_loss(hidden, head, torch.tensor([0, 3]))
    assert ours.losses.sum().item() == pytest.approx(2 * math.log(4), abs=1e-3)


def test_without_a_gradient_the_loss_is_the_same() -> None:
    hidden, head, targets = torch.randn(5, 8), torch.randn(11, 8), torch.arange(5)
    wanted = head_loss(hidden.requires_grad_(), head, targets).losses.tolist()
    with torch.no_grad():
        assert head_loss(hidden, head, targets).losses.tolist() == wanted


def test_no_supervised_token_is_no_loss() -> None:
    none = head_loss(torch.empty(0, 8), torch.randn(11, 8), torch.empty(0, dtype=torch.int64))
    assert none.losses.sum().item() == 0.0
