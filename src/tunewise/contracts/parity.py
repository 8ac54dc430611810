"""What a tuned model said when its training ended, so that every later copy of it can be held to the same.

`parity.json` lies beside the weights. It holds tokens of rows that the model was trained or validated on, so it goes
wherever the owner takes the model, and is left out of what is made for others.
"""

from pydantic import Field

from tunewise.contracts.fine_tuning import Dtype
from tunewise.contracts.frozen import Frozen

PARITY_FILE = "parity.json"


class ParityPrompt(Frozen):
    """One prompt, and the greedy answer of the trained model."""

    prompt: tuple[int, ...] = Field(min_length=1)
    continuation: tuple[int, ...] = Field(
        min_length=1, description="The likeliest token at each place; ends with the end token where the model ended."
    )
    logprobs: tuple[float, ...] = Field(description="Of each token of the continuation, in nats.")


class Parity(Frozen):
    """All of them; `dtype` is the number format that they were computed in."""

    dtype: Dtype
    prompts: tuple[ParityPrompt, ...] = Field(min_length=1)
