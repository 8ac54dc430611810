"""The output head of a model: what its logits are made of. Knows adapted models; computes nothing."""

from typing import NamedTuple, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.modeling.token_rows import TokenRows, frozen_module, trained_rows


class Head(NamedTuple):
    """`weight` (vocabulary, d_model) and `bias` (vocabulary,); logits stay between -`cap` and `cap`.

    `rows` stand for some rows of the weight, and are trained.
    """

    weight: Tensor
    bias: Tensor | None
    cap: float | None
    rows: TokenRows | None


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal language model."""
    module = cast(nn.Module, model.get_output_embeddings())  # type: ignore[no-untyped-call]
    linear = cast(nn.Linear, frozen_module(module))
    cap: float | None = model.config.get_text_config().to_dict().get("final_logit_softcapping")
    return Head(linear.weight, linear.bias, cap, trained_rows(module))
