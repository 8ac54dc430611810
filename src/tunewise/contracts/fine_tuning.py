"""What a person asks for: OpenAI's `method` object, where "auto" is allowed, and the LoRA shape beside it.

The numbers and their limits are those of the public OpenAPI description of `POST /v1/fine_tuning/jobs`.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from tunewise.contracts.frozen import Frozen

Auto: TypeAlias = Literal["auto"]
Schedule: TypeAlias = Literal["linear", "cosine", "constant"]
Overlong: TypeAlias = Literal["error", "truncate", "drop"]
Dtype: TypeAlias = Literal["bfloat16", "float32"]


class Hyperparameters(Frozen):
    """OpenAI's three; each may be left to `planning`."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, allow_inf_nan=False)] = "auto"


class Supervised(Frozen):
    """Settings of supervised fine-tuning."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Frozen):
    """The `method` object of the API; the other types are refused by name until the trainer has them."""

    type: Literal["supervised"] = "supervised"
    supervised: Supervised = Supervised()


class LoraRequest(Frozen):
    """The adapter's shape (Hu et al. 2021, arXiv:2106.09685). The scale applied is `alpha / rank`."""

    rank: Auto | Annotated[int, Field(ge=1, le=512)] = "auto"
    alpha: Auto | Annotated[float, Field(gt=0)] = "auto"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class TrainingRequest(Frozen):
    """Everything about training that a person may choose; `planning.resolve` turns it into a `TrainSpec`."""

    method: Method = Method()
    lora: LoraRequest = LoraRequest()
    schedule: Schedule = "linear"
    warmup_ratio: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    dtype: Auto | Dtype = "auto"
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Stop after this many epochs without a lower validation loss."
    )
