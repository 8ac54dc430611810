"""Activations kept for the backward pass: how many bytes they take, and computing them twice where they do not fit.

Recomputing costs a second forward pass and changes no bit of the result (tests/modeling/test_memory.py), so it is
decided by the machine at hand and is no part of a run's spec.
"""

import psutil
from transformers import PreTrainedModel

from tunewise.modeling.attention import KEPT_KEYS

# Of what the machine has free; the rest is for the head's logits, gradients and everybody else.
SHARE_OF_FREE_MEMORY = 0.5
# A weight's gradient and AdamW's two moments, in float32.
BYTES_BESIDE_A_TRAINED_WEIGHT = 12


def activation_bytes(model: PreTrainedModel, tokens: int, top_layers: int | None = None) -> int:
    """Bytes kept between forward and backward for so many tokens at once; `top_layers`: where only these are trained.

    Counted per layer of a gated transformer: about 10 vectors of the model's width, 5 of the feed-forward's, and the
    probabilities of attention that are kept, at most. Measured on SmolLM2-135M and rows of 160 tokens: 0.70 MB per
    token in bfloat16 and 1.38 MB in float32, against 1.08 and 2.17 MB by this formula.
    """
    config = model.config.get_text_config()
    per_layer: int = 10 * config.hidden_size + 5 * config.intermediate_size + config.num_attention_heads * KEPT_KEYS
    layers: int = top_layers or config.num_hidden_layers
    return tokens * layers * per_layer * model.dtype.itemsize


def keep_within_memory(
    model: PreTrainedModel, tokens: int, top_layers: int | None = None, *, spoken_for: int = 0
) -> bool:
    """Recompute activations if those of `tokens` tokens would not fit; whether that was needed.

    `spoken_for`: bytes that training will take besides, and that are free yet.
    """
    free = psutil.virtual_memory().available - spoken_for
    needed = activation_bytes(model, tokens, top_layers) > SHARE_OF_FREE_MEMORY * free
    if needed:
        recompute_activations(model)
    return needed


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep only the input of each layer, and run the layer again in the backward pass."""
    model.activation_checkpointing_enable()
