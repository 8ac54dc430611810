"""How far a run has come: everything about it that is not a tensor. A frozen value, written into each checkpoint."""

from pydantic import AliasChoices, Field

from tunewise.contracts.frozen import Frozen
from tunewise.contracts.run import StepMetrics


class Progress(Frozen):
    """Counted over all restarts. `events_size` and `events_seq` say where `events.jsonl` stood."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    supervised: int = 0
    epoch_loss_sum: float = 0.0
    epoch_size: float = Field(default=0.0, validation_alias=AliasChoices("epoch_size", "epoch_supervised"))
    valid_loss: float | None = None
    valid_accuracy: float | None = None
    valid_bits_per_byte: float | None = None
    best_valid_loss: float | None = None
    best_step: int | None = None
    stale_epochs: int = 0
    epoch_steps: tuple[int, ...] = ()
    epoch_metrics: StepMetrics | None = None
    events_size: int = 0
    events_seq: int = 0
