"""A run for Weights & Biases, as it goes to the process that writes it."""

from pathlib import Path
from typing import Any

from tunewise.contracts.frozen import Frozen
from tunewise.contracts.jobs import WandbIntegration


class WandbRun(Frozen):
    """What is written, and where: `directory` must be empty. `metrics`: one entry a step."""

    directory: Path
    run_id: str
    asked: WandbIntegration
    has_failed: bool
    config: dict[str, Any]
    metrics: list[dict[str, float | int | None]]
