"""Cross-entropy under an output head that is trained itself: its gradient needs the logits once more.

The logits are computed chunk by chunk in the forward pass and again in the backward pass, and never held whole; one
gradient of the head's size is. Knows nothing of models; exactness is proved in tests/modeling/test_loss.py.
"""

import torch
from torch import Tensor

from tunewise.modeling.autograd import Context, call

CHUNK_TOKENS = 256


def wanted_logits(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """The logits' mean under what should be predicted, (tokens, 1)."""
    own = logits.gather(1, target)
    return own if not smoothing else own * (1 - smoothing) + logits.mean(-1, keepdim=True) * smoothing


def logits_gradient(logits: Tensor, log_sum: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Of each token's loss with respect to its logits, (tokens, vocabulary), in their place."""
    grad = logits.sub_(log_sum).exp_().scatter_add_(1, target, torch.full_like(log_sum, smoothing - 1))
    return grad.sub_(smoothing / logits.shape[1]) if smoothing else grad


class _TrainedHeadLoss(torch.autograd.Function):
    """hidden: (tokens, d_model); head: (vocabulary, d_model); targets: (tokens,). Out: losses, and which were right."""

    @staticmethod
    def forward(ctx: Context, hidden: Tensor, head: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        log_sums = hidden.new_empty(len(targets), 1, dtype=torch.float32)
        losses, correct = torch.empty_like(log_sums), torch.empty_like(log_sums, dtype=torch.bool)
        for start in range(0, len(targets), CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            target = targets[chunk, None]
            logits = (hidden[chunk] @ head.t()).float()
            log_sums[chunk] = torch.logsumexp(logits, -1, keepdim=True)
            losses[chunk] = log_sums[chunk] - wanted_logits(logits, target, smoothing)
            correct[chunk] = logits.argmax(-1, keepdim=True) == target
        ctx.save_for_backward(hidden, head, targets, log_sums)
        ctx.smoothing = smoothing
        correct = correct[:, 0]
        ctx.mark_non_differentiable(correct)
        return losses[:, 0], correct

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, targets, log_sums = ctx.saved_tensors
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)
        for start in range(0, len(targets), CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            logits = (hidden[chunk] @ head.t()).float()
            grad = logits_gradient(logits, log_sums[chunk], targets[chunk, None], ctx.smoothing)
            grad = grad.mul_(grads[0][chunk, None]).to(head.dtype)
            grad_hidden[chunk] = grad @ head
            grad_head.addmm_(grad.t(), hidden[chunk])
        return grad_hidden, grad_head, None, None


def trained_head_loss(hidden: Tensor, head: Tensor, targets: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """As `loss.head_loss`; gradients for hidden and head."""
    losses, correct = call(_TrainedHeadLoss, hidden, head, targets, label_smoothing)
    return losses, correct
