"""Cross-entropy at the supervised positions only, without ever holding (tokens, vocabulary) in float32.

Where the output head is frozen, the gradient with respect to the hidden states is formed in the forward pass, chunk by
chunk, and the logits are dropped at once: token i's loss has the gradient `upstream[i] * d loss[i] / d hidden[i]`,
whatever is made of the losses afterwards. Knows nothing of models or batches; exactness is proved in
tests/modeling/test_loss.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from tunewise.modeling.autograd import Context, call
from tunewise.modeling.token_rows import TokenRows
from tunewise.modeling.trained_head import (
    CHUNK_TOKENS,
    capped,
    logits_gradient,
    slope_of,
    trained_head_loss,
    wanted,
)


class TokenLoss(NamedTuple):
    """Of each supervised token: its loss in nats, float32 (tokens,), differentiable; and whether it was predicted."""

    losses: Tensor
    correct: Tensor


class _Logits(NamedTuple):
    """What else logits and losses are made of; `indices` are the rows of the head that `rows` stand for."""

    smoothing: float
    bias: Tensor | None
    cap: float | None
    indices: Tensor | None


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, hidden: Tensor, head: Tensor, targets: Tensor, rows: Tensor | None, made_of: _Logits
    ) -> tuple[Tensor, Tensor]:
        smoothing, bias, cap, indices = made_of
        wants_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[3]
        grad_hidden = torch.empty_like(hidden) if wants_grad else None
        grad_columns = None if rows is None else hidden.new_empty(len(targets), len(rows))
        losses = hidden.new_empty(len(targets), dtype=torch.float32)
        correct = hidden.new_empty(len(targets), dtype=torch.bool)
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            target = targets[chunk, None]
            logits = linear(hidden[chunk], head, bias)
            if rows is not None:
                logits[:, indices] = linear(hidden[chunk], rows.to(head.dtype), None if bias is None else bias[indices])
            logits = capped(logits, cap)
            logs = torch.log_softmax(logits, -1, dtype=torch.float32)
            correct[chunk] = logs.argmax(-1) == target[:, 0]  # ten times as fast as on bfloat16
            losses[chunk] = -wanted(logs, target, smoothing)[:, 0]
            if grad_hidden is not None:
                grad_logits = logits_gradient(logs, target, smoothing, slope_of(logits, cap)).to(head.dtype)
                if grad_columns is not None:
                    grad_columns[chunk] = grad_logits[:, indices]
                    grad_logits[:, indices] = 0
                grad_hidden[chunk] = grad_logits @ head
        if grad_hidden is not None and grad_columns is not None and rows is not None:
            grad_hidden.addmm_(grad_columns, rows.to(head.dtype))
        ctx.save_for_backward(grad_hidden, grad_columns, None if rows is None else hidden)
        ctx.mark_non_differentiable(correct)
        return losses, correct

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_columns, hidden = ctx.saved_tensors
        upstream = grads[0][:, None].to(grad_hidden.dtype)
        grad_rows = None if grad_columns is None else ((grad_columns * upstream).t() @ hidden).float()
        return grad_hidden * upstream, None, None, grad_rows, None


def head_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    bias: Tensor | None = None,
    cap: float | None = None,
    rows: TokenRows | None = None,
) -> TokenLoss:
    """Cross-entropy of each row of `hidden @ head.T + bias`, held between -cap and cap, against `targets`.

    hidden: (supervised tokens, d_model), the states that predict; head: (vocabulary, d_model); bias: (vocabulary,);
    targets: (supervised tokens,), the ids that should be predicted. A head that is trained has a gradient too, and so
    have the `rows` that stand for some of a frozen one. `label_smoothing` is the share of each target that is spread
    evenly over the vocabulary (Szegedy et al. 2016, arXiv:1512.00567).
    """
    if head.requires_grad and torch.is_grad_enabled():
        return TokenLoss(*trained_head_loss(hidden, head, bias, targets, label_smoothing, cap))
    indices, values = (None, None) if rows is None else rows
    made_of = _Logits(label_smoothing, bias, cap, indices)
    losses, correct = call(_HeadLoss, hidden, head, targets, values, made_of)
    return TokenLoss(losses, correct)
