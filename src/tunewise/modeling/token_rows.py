"""Rows of the embedding, and of the output head, that are trained with an adapter: those of tokens added on import.

Made, named and saved by PEFT (`trainable_token_indices`), computed here: PEFT copies the whole matrix at each forward
pass, and torch would make a gradient of its size, for a few rows. Here the frozen matrix is read as it is and the
trained rows are put in their places. Exactness is proved in tests/modeling/test_token_rows.py. Knows nothing of files.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel


class TokenRows(NamedTuple):
    """`indices` (n,) are tokens of the vocabulary, `values` (n, d_model) the rows that stand for theirs."""

    indices: Tensor
    values: Tensor


def peft_option(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """What PEFT's `trainable_token_indices` is to be; an output head of its own has rows of its own."""
    if not tokens:
        return None
    modules: list[nn.Module] = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        modules.append(cast(nn.Module, model.get_output_embeddings()))  # type: ignore[no-untyped-call]
    names = [name for name, module in model.named_modules() if any(module is one for one in modules)]
    return {name: list(tokens) for name in names}


def use_rows_in_place(adapted: nn.Module) -> None:
    """Replace PEFT's forward of embeddings; heads are computed by the loss."""
    for module in adapted.modules():
        if isinstance(module, TrainableTokensWrapper) and isinstance(frozen_module(module), nn.Embedding):
            module.forward = partial(_embed, module)  # type: ignore[method-assign]


def frozen_module(module: nn.Module) -> nn.Module:
    """The embedding or head itself, without what PEFT may have put around it."""
    return _layer(module).base_layer if isinstance(module, TrainableTokensWrapper) else module


def trained_rows(module: nn.Module) -> TokenRows | None:
    """The rows of an embedding or head that are trained, where some are."""
    if not isinstance(module, TrainableTokensWrapper) or _layer(module).disable_adapters:
        return None
    layer = _layer(module)
    (name,) = layer.active_adapters
    values = cast(Tensor, layer.trainable_tokens_delta[name])
    return TokenRows(torch.tensor(layer.token_indices[name], device=values.device), values)


def _layer(wrapper: TrainableTokensWrapper) -> TrainableTokensLayer:
    layer: TrainableTokensLayer = wrapper.token_adapter
    return layer


def _embed(wrapper: TrainableTokensWrapper, ids: Tensor) -> Tensor:
    """(..., tokens) to (..., tokens, d_model)."""
    embedding, rows = frozen_module(wrapper), trained_rows(wrapper)
    found: Tensor = embedding(ids)
    if rows is None:
        return found
    is_trained = ids[..., None] == rows.indices
    # Gemma multiplies what it looks up.
    scale = dict(embedding.named_buffers(recurse=False)).get("embed_scale", torch.ones(()))
    values = is_trained.to(rows.values.dtype) @ (rows.values * scale)
    return torch.where(is_trained.any(-1, keepdim=True), values.to(found.dtype), found)
