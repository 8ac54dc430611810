"""An export between the control plane, which finds a tuned model, and `python -m tunewise.export`, which writes it."""

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field

from tunewise.contracts.evaluation import Interval, Outcome
from tunewise.contracts.fine_tuning import Dtype
from tunewise.contracts.frozen import Frozen
from tunewise.contracts.run import BaseModelRef, RunResult, TrainSpec

Target: TypeAlias = Literal["adapter", "merged", "gguf", "hub-dir"]
Quantisation: TypeAlias = Literal["f16", "q8_0"]
Kind: TypeAlias = Literal["adapter", "model"]

EXPORT_FILE = "export.json"


class Licence(Frozen):
    """Of a base model, as model hubs name it, and for people."""

    id: str = Field(description="Such as apache-2.0, or other.")
    name: str


class Score(Frozen):
    """One arm's mean of the primary grader."""

    arm: str
    mean: Interval


class ShownVerdict(Frozen):
    """What a model card tells of an evaluation."""

    outcome: Outcome
    headline: str
    grader: str
    scores: tuple[Score, ...]


class ExportSpec(Frozen):
    """An export, complete. `source` is a directory of tuned weights; `output` does not exist yet."""

    title: str
    source: Path
    kind: Kind
    base: BaseModelRef | None = Field(description="None only of a whole model that no run tells of.")
    hub_id: str | None = Field(description="The base model's name on the Hugging Face hub, where it is known.")
    licence: Licence | None = Field(description="The base model's, where it is known.")
    target: Target
    dtype: Dtype = "float32"
    quantisation: Quantisation = "f16"
    unverified: bool = Field(default=False, description="Publish a GGUF file that nothing here could read back.")
    output: Path
    spec: TrainSpec | None
    result: RunResult | None
    verdict: ShownVerdict | None


class ExportReport(Frozen):
    """What was published, and what the parity gate found. The figures are None where nothing was checked."""

    output: Path
    files: dict[str, int] = Field(description="Bytes of each.")
    checked_with: str | None
    recorded: bool = Field(description="Whether the answers were recorded when training ended, or now.")
    prompts: int | None = None
    tokens: int | None = None
    near_ties: int | None = None
    widest_logprob: float | None = Field(default=None, description="The widest difference, in nats.")
    seconds: float
