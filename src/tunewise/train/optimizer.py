"""The optimizer of a run: which weights it moves, and at which share of the learning rate. Knows no steps."""

from torch import nn
from torch.optim import AdamW, Optimizer

from tunewise.contracts.run import TrainSpec

RATE_SHARE = "rate_share"


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The weights that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_optimizer(model: nn.Module, spec: TrainSpec) -> AdamW:
    """AdamW over what is trained.

    Of LoRA+ (Hayou et al. 2024, arXiv:2402.12354), B moves faster than the rest; of whole models, norms and biases do
    not decay, as in transformers' Trainer.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    apart: dict[str, float]
    if spec.weights == "full":
        is_apart, apart = {name: weight.ndim < 2 for name, weight in named}, {"weight_decay": 0.0}
    else:
        ratio = spec.lora.plus_ratio
        is_apart, apart = {name: ratio != 1 and ".lora_B." in name for name, _ in named}, {RATE_SHARE: ratio}
    groups: list[dict[str, object]] = [
        {"params": [weight for name, weight in named if not is_apart[name]], RATE_SHARE: 1.0}
    ]
    if any(is_apart.values()):
        groups.append({"params": [weight for name, weight in named if is_apart[name]], RATE_SHARE: 1.0} | apart)
    return AdamW(groups, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Use this rate, times its share, for each group of weights."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[RATE_SHARE]
