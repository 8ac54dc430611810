"""Cross-entropy at the supervised positions only, without ever holding (tokens, vocabulary) in float32.

The output head is frozen, so the gradient with respect to the hidden states is formed in the forward pass, chunk by
chunk, and the logits are dropped at once. Knows nothing of models or batches; exactness is proved in
tests/modeling/test_loss.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tunewise.modeling.autograd import Context, call

CHUNK_TOKENS = 256


class TokenLoss(NamedTuple):
    """Sums over the supervised tokens: the loss in nats (0-dim, differentiable) and how many were predicted right."""

    loss_sum: Tensor
    correct: Tensor


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        wants_grad = ctx.needs_input_grad[0]
        grad_hidden = torch.empty_like(hidden) if wants_grad else None
        loss_sum = hidden.new_zeros((), dtype=torch.float64)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            part, target = hidden[start : start + CHUNK_TOKENS], targets[start : start + CHUNK_TOKENS, None]
            logits = (part @ head.t()).float()
            correct += (logits.argmax(-1, keepdim=True) == target).sum()
            log_sum = torch.logsumexp(logits, -1, keepdim=True)
            loss_sum += (log_sum - logits.gather(1, target)).sum(dtype=torch.float64)
            if grad_hidden is not None:
                grad_logits = logits.sub_(log_sum).exp_().scatter_add_(1, target, -torch.ones_like(log_sum))
                grad_hidden[start : start + CHUNK_TOKENS] = grad_logits.to(head.dtype) @ head
        ctx.save_for_backward(grad_hidden)
        ctx.mark_non_differentiable(correct)
        return loss_sum.float(), correct

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (grad_hidden,) = ctx.saved_tensors
        return grad_hidden * grads[0].to(grad_hidden.dtype), None, None


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> TokenLoss:
    """Summed cross-entropy of `hidden @ head.T` against `targets`.

    hidden: (supervised tokens, d_model), the states that predict; head: (vocabulary, d_model), frozen; targets:
    (supervised tokens,), the ids that should be predicted.
    """
    loss_sum, correct = call(_HeadLoss, hidden, head, targets)
    return TokenLoss(loss_sum, correct)
