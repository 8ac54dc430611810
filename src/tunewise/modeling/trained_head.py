"""Cross-entropy under an output head that is trained itself: its gradient needs the logits once more.

The logits are computed chunk by chunk in the forward pass and again in the backward pass, and never held whole; one
gradient of the head's size is. Knows nothing of models; exactness is proved in tests/modeling/test_loss.py.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from tunewise.modeling.autograd import Context, call

CHUNK_TOKENS = 256


def wanted(logs: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """The log-probabilities' mean under what should be predicted, (tokens, 1)."""
    own = logs.gather(1, target)
    return own if not smoothing else own * (1 - smoothing) + logs.mean(-1, keepdim=True) * smoothing


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """Logits held between -cap and cap, as Gemma does (2024, arXiv:2408.00118, section 2)."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def logits_gradient(logs: Tensor, target: Tensor, smoothing: float, slope: Tensor | None = None) -> Tensor:
    """Of each token's loss with respect to its logits, (tokens, vocabulary), in the place of the log-probabilities.

    `slope`: of the capped logits with respect to what they were before.
    """
    grad = logs.exp_().scatter_add_(1, target, logs.new_full(target.shape, smoothing - 1))
    if smoothing:
        grad.sub_(smoothing / logs.shape[1])
    return grad if slope is None else grad.mul_(slope)


def slope_of(logits: Tensor, cap: float | None) -> Tensor | None:
    """Of capped logits, with respect to what they were before."""
    return None if cap is None else 1 - (logits.float() / cap).square()


class _TrainedHeadLoss(torch.autograd.Function):
    """hidden: (tokens, d_model); head: (vocabulary, d_model); bias: (vocabulary,); targets: (tokens,).

    Out: losses, and which were right.
    """

    @staticmethod
    def forward(
        ctx: Context,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        smoothing: float,
        cap: float | None,
    ) -> tuple[Tensor, Tensor]:
        losses = hidden.new_empty(len(targets), 1, dtype=torch.float32)
        correct = torch.empty_like(losses, dtype=torch.bool)
        for start in range(0, len(targets), CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            target = targets[chunk, None]
            logits = capped(linear(hidden[chunk], head, bias), cap)
            logs = torch.log_softmax(logits, -1, dtype=torch.float32)
            losses[chunk] = -wanted(logs, target, smoothing)
            correct[chunk] = logs.argmax(-1, keepdim=True) == target
        ctx.save_for_backward(hidden, head, bias, targets)
        ctx.smoothing, ctx.cap = smoothing, cap
        correct = correct[:, 0]
        ctx.mark_non_differentiable(correct)
        return losses[:, 0], correct

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, bias, targets = ctx.saved_tensors
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for start in range(0, len(targets), CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            logits = capped(linear(hidden[chunk], head, bias), ctx.cap)
            logs = torch.log_softmax(logits, -1, dtype=torch.float32)
            grad = logits_gradient(logs, targets[chunk, None], ctx.smoothing, slope_of(logits, ctx.cap))
            grad = grad.mul_(grads[0][chunk, None]).to(head.dtype)
            grad_hidden[chunk] = grad @ head
            grad_head.addmm_(grad.t(), hidden[chunk])
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return grad_hidden, grad_head, grad_bias, None, None, None


def trained_head_loss(
    hidden: Tensor, head: Tensor, bias: Tensor | None, targets: Tensor, label_smoothing: float, cap: float | None
) -> tuple[Tensor, Tensor]:
    """As `loss.head_loss`; gradients for hidden, head and bias."""
    losses, correct = call(_TrainedHeadLoss, hidden, head, bias, targets, label_smoothing, cap)
    return losses, correct
