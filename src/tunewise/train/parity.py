"""What the trained model answers when training ends, kept beside its weights for the parity gate.

The cost is bounded by tokens: some prompts of the validation or training rows, and a short answer to each. Knows units
and the live model; what is done with the answers is `modeling.parity`'s.
"""

from collections.abc import Sequence, Set

from transformers import PreTrainedModel

from tunewise.contracts.parity import Parity
from tunewise.contracts.run import TrainSpec
from tunewise.modeling.greedy import as_hosted, greedy_answers
from tunewise.train.criterion import Unit

PROMPTS = 8
NEW_TOKENS = 32
# Prompts and answers together: an adapter is held to them in one forward pass each time it is loaded, which is to take
# less than a second for SmolLM2-135M on two cores. Measured there in float32: 2.8 ms a token.
TOTAL_TOKENS = 288
SAMPLED_ROWS = 64
TEXT_TOKENS = 16  # of a document, which has no prompt


def record(model: PreTrainedModel, units: Sequence[Unit], stop_ids: Set[int], spec: TrainSpec) -> Parity | None:
    """The answers of the live model; None where hosting will not compute what was trained.

    That is so of 4-bit weights: an adapter that was trained on them is hosted on the weights as they were before.
    """
    if spec.weights == "qlora":
        return None
    with as_hosted(model):
        answers = greedy_answers(model, prompts_of(units), stop_ids, new_tokens=NEW_TOKENS)
    return Parity(dtype="float32" if spec.weights == "full" else spec.dtype, prompts=answers)


def prompts_of(units: Sequence[Unit]) -> list[list[int]]:
    """The shortest prompts of a sample of rows, as many as the bounds allow; one at least, shortened if need be.

    What is shortened keeps its first token and its end, which opens the answer.
    """
    every = max(1, len(units) // SAMPLED_ROWS)
    candidates = {tuple(_prompt(unit)): None for unit in units[::every][:SAMPLED_ROWS]}
    chosen: list[list[int]] = []
    left = TOTAL_TOKENS
    for prompt in sorted(candidates, key=len)[:PROMPTS]:
        if len(prompt) + NEW_TOKENS <= left:
            chosen.append(list(prompt))
            left -= len(prompt) + NEW_TOKENS
    if chosen:
        return chosen
    longest = TOTAL_TOKENS - NEW_TOKENS
    shortest = min(candidates, key=len)
    return [[shortest[0], *shortest[1 - longest :]]]


def _prompt(unit: Unit) -> list[int]:
    row = unit.rows[0]
    first_trained = next((place for place, on in enumerate(row.mask) if on and place), len(row.ids))
    return row.ids[: first_trained if first_trained > 1 else TEXT_TOKENS]
