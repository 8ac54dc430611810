"""OpenAI's requests as they may be sent: every field with its limits; any other is refused by its name."""

from typing import Annotated, Any, Literal, TypeAlias

from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, field_validator

from tunewise.api.texts import Id, Line, Metadata, PathText
from tunewise.contracts.evaluations import EvaluationRequest
from tunewise.contracts.fine_tuning import (
    METHOD_TYPES,
    Dpo,
    Hyperparameters,
    Kto,
    Method,
    MethodType,
    Orpo,
    Pretraining,
    Supervised,
    TrainingOptions,
)
from tunewise.contracts.frozen import Frozen
from tunewise.contracts.jobs import Integration
from tunewise.errors import RequestError
from tunewise.jobs import uploads
from tunewise.jobs.fine_tuning import Submission

UploadPurpose: TypeAlias = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]


EVALUATION_CHARS = 100_000


def _not_too_long(evaluation: EvaluationRequest) -> EvaluationRequest:
    """Its prompts and templates share one limit."""
    if (length := len(evaluation.model_dump_json())) > EVALUATION_CHARS:
        raise ValueError(
            f"it has {length:,} characters of JSON, and {EVALUATION_CHARS:,} are allowed; shorten its texts"
        )
    return evaluation


class MethodRequest(Frozen):
    """How to tune: a type, and the settings of that type alone. `reinforcement` is known, and refused by name."""

    type: MethodType | Literal["reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    orpo: Orpo | None = Field(default=None, description="Ours.")
    kto: Kto | None = Field(default=None, description="Ours.")
    pretraining: Pretraining | None = Field(default=None, description="Ours.")
    reinforcement: dict[str, Any] | None = None

    @field_validator(*METHOD_TYPES, mode="before")
    @classmethod
    def _without_null(cls, settings: object) -> object:
        """Some clients send the hyperparameters that they leave out as null."""
        if isinstance(settings, dict) and settings.get("hyperparameters", ...) is None:
            return {name: value for name, value in settings.items() if name != "hyperparameters"}
        return settings

    def method(self) -> Method:
        """What is asked for, the settings left out filled in.

        Raises:
            RequestError: unsupported_method or conflicting_parameters.
        """
        if self.type == "reinforcement":
            raise RequestError(
                "unsupported_method",
                f"method.type: 'reinforcement' is not trained by this server; choose one of {', '.join(METHOD_TYPES)}",
                param="method.type",
            )
        for name in (*METHOD_TYPES, "reinforcement"):
            if name != self.type and getattr(self, name) is not None:
                raise RequestError(
                    "conflicting_parameters",
                    f"method.{name}: the method's type is {self.type!r}; leave {name} out",
                    param=f"method.{name}",
                )
        return Method.model_validate({"type": self.type, self.type: getattr(self, self.type)})


class CreateFineTuningJob(Frozen):
    """POST /v1/fine_tuning/jobs."""

    model: Id = Field(
        description="A base model, an alias, a tuned model or a checkpoint.", examples=["smollm2-135m-instruct"]
    )
    training_file: Id = Field(description="A file of purpose `fine-tune`.", examples=["file-abc123"])
    validation_file: Id | None = Field(default=None, description="Another one, for validation losses.")
    method: MethodRequest | None = Field(default=None, description="How to tune; supervised by default.")
    hyperparameters: Hyperparameters | None = Field(default=None, description="Deprecated: those of `method`.")
    suffix: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")] | None = Field(
        default=None, description="Part of the tuned model's name.", examples=["recipe-ner"]
    )
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(default=None, description="Drawn when left out.")
    metadata: Metadata | None = Field(default=None, description="Up to 16 pairs, to find jobs by.")
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = Field(
        default=None, description="Weights & Biases: the run is written to the server's disk when the job has ended."
    )
    training: TrainingOptions | None = Field(
        default=None, description="Ours: what is trained beside the method: adapter, schedule, precision, processes."
    )
    evaluation: Annotated[EvaluationRequest, AfterValidator(_not_too_long)] | None = Field(
        default=None, description="Ours: how the run is to be judged. Its alternatives are asked before it is trained."
    )

    def submission(self) -> Submission:
        """The job that is asked for.

        Raises:
            RequestError: unsupported_method or conflicting_parameters.
        """
        return Submission(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            method=_method(self.method, self.hyperparameters),
            seed=self.seed,
            suffix=self.suffix,
            metadata=self.metadata,
            integrations=tuple(self.integrations) if self.integrations else None,
            training=self.training or TrainingOptions(),
        )


class ExpiresAfter(Frozen):
    """When a file is to expire."""

    anchor: Literal["created_at"] = Field(description="What the time is counted from.")
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)] = Field(description="An hour to thirty days.")


class FileFields(Frozen):
    """The text fields of POST /v1/files."""

    purpose: UploadPurpose
    expires_after: ExpiresAfter | None = None


class CreateUpload(Frozen):
    """POST /v1/uploads."""

    filename: PathText = Field(
        description="The name that the file will have; its last component is kept.", examples=["train.jsonl"]
    )
    purpose: UploadPurpose = Field(examples=["fine-tune"])
    bytes: Annotated[int, Field(ge=1, le=uploads.MAX_BYTES)] = Field(description="Of all parts together.")
    mime_type: Line = Field(examples=["application/jsonl"])
    expires_after: ExpiresAfter | None = None

    def asked(self) -> uploads.UploadAsked:
        """The upload that is announced."""
        seconds = self.expires_after.seconds if self.expires_after else None
        return uploads.UploadAsked(self.filename, self.purpose, self.bytes, self.mime_type, seconds)


class CompleteUpload(Frozen):
    """POST /v1/uploads/{upload_id}/complete."""

    part_ids: Annotated[list[Id], Field(min_length=1, max_length=10_000)] = Field(description="In the file's order.")
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{32}$")] | None = Field(
        default=None, description="Of the whole file, in hex."
    )


class CreatePermissions(Frozen):
    """POST /v1/fine_tuning/checkpoints/{checkpoint}/permissions."""

    project_ids: Annotated[list[Id], Field(min_length=1, max_length=100)] = Field(examples=[["proj_abc"]])


def file_fields(fields: dict[str, str]) -> FileFields:
    """The text fields of an upload's form, with bracketed names as the SDK writes them: `expires_after[seconds]`.

    Raises:
        RequestValidationError: naming the field at fault.
    """
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if bracket and inner.endswith("]") and isinstance(nested.setdefault(outer, {}), dict):
            nested[outer][inner[:-1]] = value
        else:
            nested[name] = value
    try:
        return FileFields.model_validate(nested)
    except ValidationError as error:
        errors = [{**detail, "loc": ("body", *detail["loc"])} for detail in error.errors()]
        raise RequestValidationError(errors, body=nested) from error


def no_fields(fields: dict[str, str]) -> None:
    """Refuse text fields beside a part.

    Raises:
        RequestError: unknown_parameter.
    """
    for name in fields:
        raise RequestError("unknown_parameter", f"Unrecognized request argument supplied: {name}", param=name)


def _method(asked: MethodRequest | None, deprecated: Hyperparameters | None) -> Method:
    method = Method() if asked is None else asked.method()
    if deprecated is None:
        return method
    instead = method.with_hyperparameters(deprecated.model_dump(exclude_unset=True))
    if "hyperparameters" in method.settings.model_fields_set and instead != method:
        raise RequestError(
            "conflicting_parameters",
            f"hyperparameters: these are deprecated and differ from method.{method.type}.hyperparameters; "
            "give one of them",
            param="hyperparameters",
        )
    return instead
