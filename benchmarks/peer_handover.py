"""What a peer is handed and what it hands back, as files and one line of JSON: its environment needs no Tunewise.

Knows nothing of any trainer. Runs in the interpreter of each peer, so it imports the standard library only.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

HANDOVER_FILE = "handover.json"
ADAPTER_DIR = "initial_adapter"
NOT_SUPERVISED = -100


class Row(TypedDict):
    """One training row: `ids` and `mask` (tokens,), 1 where the token is trained on."""

    ids: list[int]
    mask: list[int]


class Handover(TypedDict):
    """A run as every side does it: rows in training order, one epoch, the learning rate falling linearly to zero."""

    model: str
    rows: list[Row]
    rank: int
    alpha: int
    batch_size: int
    learning_rate: float
    seed: int


class Measured(TypedDict):
    """One run: useful tokens, seconds of training without imports and loading, bytes, and each step's loss in nats."""

    tokens: int
    seconds: float
    peak_memory_bytes: int
    losses: list[float]


class Order(NamedTuple):
    """What a peer's process is asked for: `settings` are the peer's own, by its own names."""

    directory: Path
    handover: Handover
    settings: dict[str, Any]


def read_order() -> Order:
    """The command line of a peer's process: a directory with the handover, and settings in JSON."""
    directory = Path(sys.argv[1])
    handover: Handover = json.loads((directory / HANDOVER_FILE).read_text())
    return Order(directory, handover, json.loads(sys.argv[2]))


def labels(row: Row) -> list[int]:
    """The ids that are trained on, and NOT_SUPERVISED elsewhere: (tokens,)."""
    return [token if on else NOT_SUPERVISED for token, on in zip(row["ids"], row["mask"], strict=True)]


def hand_back(handover: Handover, seconds: float, losses: list[float]) -> None:
    """Print the measurement as the last line of the output; the memory is this process's highest so far."""
    measured = Measured(
        tokens=sum(len(row["ids"]) for row in handover["rows"]),
        seconds=seconds,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        losses=losses,
    )
    print(f"\n{json.dumps(measured)}", flush=True)
