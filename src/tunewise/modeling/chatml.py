"""ChatML for a base model that has no chat template: the template, and the two tokens that it needs.

A model that has never seen `<|im_start|>` and `<|im_end|>` has no use for their rows as they are, so the tokens added
are named to the caller, and their rows are trained with each adapter (`token_rows`). Knows nothing of files.
"""

from typing import Any, cast

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

START, END = "<|im_start|>", "<|im_end|>"
TURNS = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def add_chatml(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Give both ChatML; the ids of the tokens that were not there before.

    `<|im_end|>` begins as the model's own end token, whose meaning is the nearest; `<|im_start|>` as the mean of all.
    """
    known = tokenizer.get_vocab()
    missing = [token for token in (START, END) if token not in known]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True)
    begins = tokenizer.bos_token_id in cast(list[int], tokenizer("")["input_ids"])
    tokenizer.chat_template = ("{{- bos_token }}" if begins else "") + TURNS
    ids = [cast(int, tokenizer.convert_tokens_to_ids(token)) for token in missing]
    if ids:
        _make_rows(model, dict(zip(missing, ids, strict=True)), cast(int, tokenizer.eos_token_id))
    return ids


@torch.no_grad()
def _make_rows(model: PreTrainedModel, tokens: dict[str, int], end: int) -> None:
    before = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if max(tokens.values()) >= before:
        resize: Any = model.resize_token_embeddings
        resize(max(tokens.values()) + 1, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):  # type: ignore[no-untyped-call]
        weight: Tensor = cast(nn.Embedding, module).weight
        for token, row in tokens.items():
            mean = weight[: min(tokens.values())].float().mean(0).to(weight.dtype)
            weight[row] = weight[end] if token == END else mean
