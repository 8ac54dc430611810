"""The parity gate: whether a copy of a tuned model answers as the model did when its training ended.

The recorded answers are put before the copy, and at each place its own choice and its log-probability of the recorded
token are read (`Reading`). Where both choose alike everywhere, the greedy texts are equal; one forward pass tells that,
where writing the texts again would take one for each token. Knows tokens and logits; nothing of how a copy is loaded.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from tunewise.contracts.parity import PARITY_FILE, Parity, ParityPrompt
from tunewise.errors import ModelError

Precision: TypeAlias = Literal["float32", "hosted float32", "bfloat16", "f16", "q8_0"]
Decode: TypeAlias = Callable[[Sequence[int]], str]
SHOWN_LETTERS = 60  # of a prompt's end, in an error


class Tolerance(NamedTuple):
    """By how many nats a recorded token's log-probability may be off, and by how much another token may be likelier.

    The second is the near tie: two tokens so close that rounding decides which is first.
    """

    logprob: float
    tie: float


# The widest gaps measured on SmolLM2-135M with a tuned adapter stand in docs/how-to/export.md; the bounds are 2 to 6
# times as wide. A wrong scale, a missing layer or another base are off by whole nats.
TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(1e-4, 1e-4),
    # Packed products sum in another order, and more so in larger models: 2e-5 was measured, and a server that refuses
    # what is right does more harm than one that lets 1e-3 pass.
    "hosted float32": Tolerance(1e-3, 1e-3),
    "bfloat16": Tolerance(1.5, 0.75),
    "f16": Tolerance(0.05, 0.025),
    "q8_0": Tolerance(1.0, 0.5),
}


class Reading(NamedTuple):
    """At one place: the copy's own likeliest token, its log-probability, and that of the recorded token, in nats."""

    token: int
    logprob: float
    recorded: float


class Agreement(NamedTuple):
    """What was compared, in tokens; how many were decided otherwise in a near tie; the widest gaps, in nats."""

    prompts: int
    tokens: int
    near_ties: int
    widest_logprob: float
    widest_tie: float


def tolerance(*precisions: Precision) -> Tolerance:
    """What may differ where these were at work, on either side: the widest of each."""
    bounds = [TOLERANCES[one] for one in precisions]
    return Tolerance(max(bound.logprob for bound in bounds), max(bound.tie for bound in bounds))


def read_parity(directory: Path) -> Parity | None:
    """What lies beside a model's or an adapter's weights; None where nothing was recorded.

    Raises:
        ModelError: unreadable_parity.
    """
    file = directory / PARITY_FILE
    try:
        parity = Parity.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise _unreadable(file, error.errors()[0]["msg"]) from error
    except OSError as error:
        raise _unreadable(file, str(error)) from error
    for prompt in parity.prompts:
        if len(prompt.logprobs) != len(prompt.continuation):
            raise _unreadable(file, f"{len(prompt.logprobs)} logprobs for {len(prompt.continuation)} tokens")
    return parity


def require_vocabulary(parity: Parity, vocabulary: int, directory: Path) -> None:
    """Refuse records of another model before a token is looked up that is not there.

    Raises:
        ModelError: unreadable_parity.
    """
    largest = max(max(prompt.prompt + prompt.continuation) for prompt in parity.prompts)
    if largest >= vocabulary:
        raise _unreadable(directory / PARITY_FILE, f"it names token {largest} of a model of {vocabulary} tokens")


def read_logits(logits: Tensor, continuation: Sequence[int]) -> list[Reading]:
    """`logits`: (places, vocabulary), each from before the token of `continuation` that stands at the same place."""
    known = torch.log_softmax(logits.float(), -1)
    best = known.max(-1)
    own = known.gather(1, torch.tensor(continuation)[:, None])[:, 0]
    return [Reading(*each) for each in zip(best.indices.tolist(), best.values.tolist(), own.tolist(), strict=True)]


@torch.no_grad()
def readings_of(model: PreTrainedModel, recorded: ParityPrompt) -> list[Reading]:
    """What a model in memory makes of one prompt; it runs under plain attention."""
    ids = torch.tensor([[*recorded.prompt, *recorded.continuation[:-1]]])
    places = len(recorded.continuation)
    return read_logits(model(input_ids=ids, use_cache=False, logits_to_keep=places).logits[0], recorded.continuation)


def require_parity(
    prompts: Sequence[ParityPrompt],
    readings: Sequence[Sequence[Reading]],
    allowed: Tolerance,
    *,
    what: str,
    decode: Decode,
) -> Agreement:
    """Refuse a copy that answers otherwise than was recorded.

    Raises:
        ModelError: parity_failed, naming the prompt, the place, and both tokens.
    """
    ties = 0
    widest_logprob = widest_tie = 0.0
    for number, (prompt, found) in enumerate(zip(prompts, readings, strict=True)):
        for place, (reading, logprob) in enumerate(zip(found, prompt.logprobs, strict=True)):
            lead = reading.logprob - reading.recorded
            off = abs(reading.recorded - logprob)
            # Written so that a NaN is refused.
            if not (off <= allowed.logprob and lead <= allowed.tie):
                where = f"{what}: prompt {number + 1} of {len(prompts)} ({_shown(decode(prompt.prompt))})"
                raise _differs(where, prompt, place, reading, allowed, decode)
            ties += reading.token != prompt.continuation[place]
            widest_logprob, widest_tie = max(widest_logprob, off), max(widest_tie, lead)
    return Agreement(len(prompts), sum(map(len, readings)), ties, widest_logprob, widest_tie)


def _unreadable(file: Path, why: str) -> ModelError:
    message = f"{file} cannot be used: {why}; restore it, or take it away to do without the check"
    return ModelError("unreadable_parity", message)


def _differs(
    where: str, prompt: ParityPrompt, place: int, reading: Reading, allowed: Tolerance, decode: Decode
) -> ModelError:
    token = prompt.continuation[place]
    return ModelError(
        "parity_failed",
        f"{where}, token {place + 1} of the answer: training ended with {token} ({decode([token])!r}) at "
        f"{prompt.logprobs[place]:.5f} nats, here it has {reading.recorded:.5f} and {reading.token} "
        f"({decode([reading.token])!r}) is likeliest at {reading.logprob:.5f}; allowed are {allowed.logprob:g} nats, "
        f"and {allowed.tie:g} between the two. This is not the model that was trained: look for a "
        "changed base model or weights, or train again",
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_LETTERS else f"…{text[-SHOWN_LETTERS:]}")
