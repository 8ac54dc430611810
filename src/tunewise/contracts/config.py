"""`tunewise.yaml`: one experiment, from the data files to the verdict.

"auto" is allowed; paths are relative to the file.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from tunewise.contracts.fine_tuning import Auto, Overlong, TrainingRequest
from tunewise.contracts.frozen import ConfigPath, Frozen
from tunewise.contracts.graders import AnyGrader
from tunewise.settings import EngineConfig


class DataConfig(Frozen):
    """The rows. `test` is never trained on; `test_items` gives graders more than the reference answer."""

    train: ConfigPath
    valid: ConfigPath | None = None
    test: ConfigPath
    test_items: ConfigPath | None = Field(default=None, description="JSONL: line i holds the fields of test row i.")
    max_tokens: Auto | Annotated[int, Field(ge=16)] = Field(
        default="auto", description="The longest row, in tokens; by default what the model allows."
    )
    overlong: Overlong = "error"


class Endpoint(Frozen):
    """A paid or remote OpenAI-compatible API to compare with."""

    base_url: str
    model: str
    api_key_env: str | None = Field(default=None, description="Name of the environment variable that holds the key.")
    price_per_million_prompt_tokens: Annotated[float, Field(ge=0)]
    price_per_million_completion_tokens: Annotated[float, Field(ge=0)]


ArmName: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=48, pattern=r"^[^/\x00-\x1f\x7f]+$")]
"""What an arm is called: part of the name of the file that keeps its answers."""


class PromptArm(Frozen):
    """A plain prompt: the test row's own messages, or with another system message in place of the row's."""

    name: ArmName = "prompt"
    system: str | None = None
    endpoint: Endpoint | None = None


class FewShotArm(Frozen):
    """k train rows, chosen once with the seed, before every question; fewer where the context is too short."""

    name: ArmName = "few_shot"
    k: Annotated[int, Field(ge=1, le=64)] = 5


class RetrievalArm(Frozen):
    """Search in `documents` (JSONL with a `text` field), or, without documents, in the train rows as examples."""

    name: ArmName = "retrieval"
    k: Annotated[int, Field(ge=1, le=64)] = 4
    documents: ConfigPath | None = None
    by: Literal["bm25", "embeddings"] = Field(
        default="bm25", description="BM25, or the cosine of embeddings (all-minilm-l6-v2)."
    )


class ArmsConfig(Frozen):
    """What the tuned model is compared with; `null` leaves one out. The floors are always scored."""

    prompt: tuple[PromptArm, ...] = (PromptArm(),)
    few_shot: FewShotArm | None = FewShotArm()
    retrieval: RetrievalArm | None = RetrievalArm()


class Prices(Frozen):
    """What the user pays. Without a machine price, costs are reported in machine-hours only."""

    currency: str = "USD"
    machine_hour: Annotated[float, Field(ge=0)] | None = None


class UseCase(Frozen):
    """What only a person knows; the decision record says "not known" where a line is missing."""

    behaviour: str | None = Field(default=None, description="Which behaviour is to improve.")
    effort: str | None = Field(default=None, description="What preparing the data took.")
    requests_per_month: Annotated[int, Field(ge=0)] | None = None
    reuse: str | None = Field(default=None, description="What else this base model and this data serve.")


class EvaluationConfig(Frozen):
    """How answers are made and compared."""

    worthwhile_difference: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.02, description="The smallest gain in the primary score that would be worth a fine-tune."
    )
    usable_score: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1, description="Below this primary score nobody could use the answers, however much they gained."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    concurrency: Annotated[int, Field(ge=1, le=256)] = 32
    max_completion_tokens: Auto | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="By default a quarter more than the longest training answer, and 16."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0


class EvaluationPlan(Frozen):
    """What counts as good, what the tuned model is compared with, and what a verdict is reckoned from."""

    graders: Annotated[tuple[AnyGrader, ...], Field(min_length=1, description="How an answer is scored.")]
    arms: ArmsConfig = ArmsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    prices: Prices = Prices()
    use_case: UseCase = UseCase()


class RunConfig(EvaluationPlan):
    """The whole of `tunewise.yaml`."""

    model: str = Field(default="smollm2-135m-instruct", description="Catalogue name, hub id, directory or GGUF file.")
    suffix: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] = "tuned"
    data: DataConfig
    training: TrainingRequest = TrainingRequest()
    engine: EngineConfig | None = Field(
        default=None, description="What hosts the models while they are asked; by default what TUNEWISE_ENGINE says."
    )
