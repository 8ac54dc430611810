"""Greedy answers of a model in memory, several at once, with their log-probabilities.

For the few prompts that the parity gate records; hosting has an engine of its own. Knows ids; nothing of templates.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tunewise.contracts.parity import ParityPrompt

PLAIN_ATTENTION = "sdpa"


@contextmanager
def as_hosted(model: PreTrainedModel) -> Iterator[None]:
    """The model as it answers: without dropout, under plain attention, which knows keys of tokens before."""
    was_training, attention = model.training, model.config._attn_implementation
    model.train(False)
    model.set_attn_implementation(PLAIN_ATTENTION)
    yield
    model.set_attn_implementation(attention)
    model.train(was_training)


@torch.no_grad()
def greedy_answers(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], stop_ids: Set[int], *, new_tokens: int
) -> tuple[ParityPrompt, ...]:
    """The likeliest token after each prompt, and after that, up to an end token or `new_tokens`.

    Prompts are laid right-aligned, so that one forward pass a token does for all.
    """
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    cache = DynamicCache()
    answers: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    positions = (seen.cumsum(-1) - 1).clamp(min=0)
    for _ in range(new_tokens):
        logits: Tensor = model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        best = torch.log_softmax(logits.float(), -1).max(-1)
        for row, (token, logprob) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
            if not answers[row] or answers[row][-1] not in stop_ids:
                answers[row].append(token)
                logprobs[row].append(logprob)
        if all(answer[-1] in stop_ids for answer in answers):
            break
        ids = best.indices[:, None]
        seen = torch.cat([seen, torch.ones_like(ids)], 1)
        positions = positions[:, -1:] + 1
    return tuple(
        ParityPrompt(prompt=tuple(prompt), continuation=tuple(answer), logprobs=tuple(each))
        for prompt, answer, each in zip(prompts, answers, logprobs, strict=True)
    )
