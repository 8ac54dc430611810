"""What a person asks for: OpenAI's `method` object, where "auto" is allowed, and what is trained beside it.

The names, numbers and limits of `method` are those of the public OpenAPI description of `POST /v1/fine_tuning/jobs`;
the types `orpo`, `kto` and `pretraining`, and every field beside `hyperparameters`, are ours.
"""

from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import Field, StringConstraints, model_validator

from tunewise.contracts.frozen import Frozen

Auto: TypeAlias = Literal["auto"]
Schedule: TypeAlias = Literal["linear", "cosine", "constant"]
Overlong: TypeAlias = Literal["error", "truncate", "drop"]
Dtype: TypeAlias = Literal["bfloat16", "float32"]
MethodType: TypeAlias = Literal["supervised", "dpo", "orpo", "kto", "pretraining"]
LossOn: TypeAlias = Literal["assistant", "last_assistant", "all"]
DpoLoss: TypeAlias = Literal["sigmoid", "ipo"]
LoraInit: TypeAlias = Literal["default", "pissa", "olora"]
Weights: TypeAlias = Literal["lora", "qlora", "full"]
Sharding: TypeAlias = Literal["ddp", "fsdp"]
ParentUse: TypeAlias = Literal["continue", "stack"]
Tracker: TypeAlias = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ModuleName: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.]+$")]


class Hyperparameters(Frozen):
    """OpenAI's three; each may be left to `planning`."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = Field(
        default="auto", description="Passes over the training rows."
    )
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = Field(
        default="auto", description="Rows of a step; of preferences, pairs."
    )
    learning_rate_multiplier: Auto | Positive = Field(
        default="auto", description="Times the rate that is usual for the method and the weights that are trained."
    )


class PreferenceHyperparameters(Hyperparameters):
    """With OpenAI's fourth: how strongly the tuned model is held to the one it began as."""

    beta: Auto | Annotated[float, Field(gt=0, le=2)] = Field(
        default="auto", description="Of DPO and KTO, the weight of staying near the reference; of ORPO, its lambda."
    )


class Supervised(Frozen):
    """Settings of supervised fine-tuning."""

    hyperparameters: Hyperparameters = Hyperparameters()
    loss_on: LossOn = Field(default="assistant", description="Which messages carry loss.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of each target that is spread evenly over the vocabulary."
    )
    neftune_alpha: Positive | None = Field(
        default=None, description="Noise on the embeddings while training (Jain et al. 2023, arXiv:2310.05914)."
    )


class Dpo(Frozen):
    """Settings of direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()
    loss: DpoLoss = Field(default="sigmoid", description="`ipo`: Azar et al. 2023, arXiv:2310.12036.")


class Orpo(Frozen):
    """Settings of odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691); beta is its lambda."""

    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()


class Kto(Frozen):
    """Settings of Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306)."""

    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()
    desirable_weight: Positive = 1.0
    undesirable_weight: Positive = 1.0


class Pretraining(Frozen):
    """Settings of continued pre-training on plain text."""

    hyperparameters: Hyperparameters = Hyperparameters()


MethodSettings: TypeAlias = Supervised | Dpo | Orpo | Kto | Pretraining
METHOD_TYPES: tuple[MethodType, ...] = get_args(MethodType)
PREFERENCES: tuple[MethodType, ...] = ("dpo", "orpo", "kto")


def _is_absent(settings: MethodSettings | None) -> bool:
    return settings is None


class Method(Frozen):
    """The `method` object of the API: a type, and the settings of that type alone."""

    type: MethodType = "supervised"
    supervised: Supervised | None = Field(default=None, exclude_if=_is_absent)
    dpo: Dpo | None = Field(default=None, exclude_if=_is_absent)
    orpo: Orpo | None = Field(default=None, exclude_if=_is_absent)
    kto: Kto | None = Field(default=None, exclude_if=_is_absent)
    pretraining: Pretraining | None = Field(default=None, exclude_if=_is_absent)

    @model_validator(mode="before")
    @classmethod
    def _own_settings(cls, given: Any) -> Any:  # noqa: ANN401  # pydantic gives what came in
        """The settings of the type that is asked for, by default its defaults."""
        if not isinstance(given, dict):
            return given
        kind = given.get("type", "supervised")
        return given | {kind: given.get(kind) or {}} if kind in METHOD_TYPES else given

    @model_validator(mode="after")
    def _no_others(self) -> Self:
        others = [kind for kind in METHOD_TYPES if kind != self.type and getattr(self, kind) is not None]
        if others:
            raise ValueError(f"the method's type is {self.type!r}; leave {others[0]} out")
        return self

    @property
    def settings(self) -> MethodSettings:
        """The settings of the method's type."""
        found: MethodSettings = getattr(self, self.type)
        return found

    @property
    def hyperparameters(self) -> Hyperparameters:
        """As asked for, "auto" included."""
        return self.settings.hyperparameters

    @property
    def beta(self) -> Auto | float | None:
        """As asked for; None where the method has none."""
        asked = self.hyperparameters
        return asked.beta if isinstance(asked, PreferenceHyperparameters) else None

    @property
    def loss_on(self) -> LossOn:
        """Which messages carry loss; of two answers that are compared, the assistant's."""
        return self.supervised.loss_on if self.supervised else "assistant"

    def with_hyperparameters(self, numbers: dict[str, int | float]) -> "Method":
        """The same method with some hyperparameters replaced by numbers."""
        replaced = self.hyperparameters.model_copy(update=numbers)
        return self.model_copy(update={self.type: self.settings.model_copy(update={"hyperparameters": replaced})})


class LoraRequest(Frozen):
    """The adapter's shape (Hu et al. 2021, arXiv:2106.09685). The scale applied is `alpha / rank`."""

    rank: Auto | Annotated[int, Field(ge=1, le=512)] = "auto"
    alpha: Auto | Positive = "auto"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["all-linear"] | Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64)] = (
        "all-linear"
    )
    rank_stabilized: bool = Field(
        default=False, description="rsLoRA: the scale is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732)."
    )
    dora: bool = Field(default=False, description="Magnitude apart from direction (Liu et al. 2024, arXiv:2402.09353).")
    init: LoraInit = Field(
        default="default",
        description="`pissa`: Meng et al. 2024, arXiv:2404.02948; `olora`: Büyükakyüz 2024, arXiv:2406.01775.",
    )
    plus_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        default=1.0,
        description="LoRA+: the learning rate of B over that of A (Hayou et al. 2024, arXiv:2402.12354).",
    )


class TrainingOptions(Frozen):
    """What a person may choose beside the method; the API's field `training`, and part of `tunewise.yaml`."""

    weights: Weights = Field(
        default="lora", description="What is trained: an adapter, an adapter over 4-bit weights, or every weight."
    )
    lora: LoraRequest = LoraRequest()
    top_layers: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Train the last so many layers only; those below are computed once."
    )
    parent_use: ParentUse = Field(
        default="continue",
        description="A tuned model that is tuned further: its adapter trains on, or stays and a new one is put on it.",
    )
    schedule: Schedule = Field(default="linear", description="How the learning rate falls after the warm-up.")
    warmup_ratio: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.05, description="Share of the steps in which the learning rate rises."
    )
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(default=0.0, description="AdamW's.")
    max_grad_norm: Positive = Field(default=1.0, description="A longer gradient is shortened to this norm.")
    dtype: Auto | Dtype = Field(
        default="auto", description="Of the frozen weights; by default what the machine is fast in."
    )
    activation_checkpointing: Auto | bool = Field(
        default="auto", description="Compute activations twice and keep none; by default where memory is short."
    )
    processes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Trainers that share each step's rows."
    )
    sharding: Sharding = Field(
        default="ddp", description="Of several processes: each holds every weight, or a share of them."
    )
    checkpoint_minutes: Positive = Field(default=10.0, description="Between checkpoints within an epoch.")
    early_stopping_patience: Annotated[int, Field(ge=1, le=50)] | None = Field(
        default=None, description="Stop after this many epochs without a lower validation loss."
    )
    trackers: Annotated[tuple[Tracker, ...], Field(max_length=4)] = Field(
        default=(), description="Programs that are told of each step."
    )


class TrainingRequest(TrainingOptions):
    """Everything about training that a person may choose; `planning.resolve` turns it into a `TrainSpec`."""

    method: Method = Method()
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42

    @property
    def options(self) -> TrainingOptions:
        """What is asked for beside method and seed."""
        return TrainingOptions(**{name: getattr(self, name) for name in TrainingOptions.model_fields})
