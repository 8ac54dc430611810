"""Settings: the only place that reads the environment.

Every setting is an environment variable named `TUNEWISE_` and its name in capitals.
"""

import os
import platform
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tunewise.errors import ConfigError

HostName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$", to_lower=True)]
Origin: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[\w+.-]+://[^/]+$", to_lower=True)]


class _Engine(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TorchEngine(_Engine):
    """Ours: `python -m tunewise.serve`, one process for each base model."""

    kind: Literal["torch"] = "torch"
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="What is computed in; `auto` is bfloat16 where the machine multiplies it."
    )
    adapter_memory_mb: int | None = Field(
        default=None, ge=1, description="What a base model's adapters may take; by default a tenth of what is free."
    )


class OpenAIEngine(_Engine):
    """An OpenAI-compatible server that somebody runs. Tuned models are loaded there where it takes vLLM's
    `/v1/load_lora_adapter`, by their paths, which it has to see too.
    """

    kind: Literal["openai"]
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^/]+(/.*[^/])?$")]
    api_key_env: str | None = Field(
        default=None, description="Name of the environment variable that holds the server's key."
    )
    models: dict[str, str] = Field(
        default={}, description="What that server calls our models; what is not listed, it calls as we do."
    )
    timeout_seconds: float = Field(default=600.0, gt=0, description="The longest silence within an answer.")


class VllmEngine(_Engine):
    """vLLM, started and supervised as ours is: `vllm serve` with LoRA, one process for each base model."""

    kind: Literal["vllm"]
    python: str | None = Field(
        default=None, description="The Python that vLLM is installed for, where it is not this one: a path."
    )
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = Field(
        default=64, description="The largest rank of an adapter."
    )
    max_loras: int = Field(default=8, ge=1, description="How many adapters one batch may mix.")
    start_seconds: float = Field(default=900.0, gt=0, description="How long a start may take.")
    arguments: tuple[str, ...] = Field(
        default=(), description='Further ones of `vllm serve`: ["--dtype", "float32", "--max-model-len", "4096"].'
    )


EngineConfig: TypeAlias = Annotated[TorchEngine | OpenAIEngine | VllmEngine, Field(discriminator="kind")]
"""What hosts models (docs/adr/0024)."""


class Settings(BaseSettings):
    """What differs from machine to machine. Nothing of a run's own configuration stands here."""

    model_config = SettingsConfigDict(
        env_prefix="TUNEWISE_", env_ignore_empty=True, frozen=True, extra="ignore", populate_by_name=True
    )

    home: Path = Field(
        default=Path.home() / ".tunewise", description="Where converted base models, probes and caches are kept."
    )
    hub_offline: bool = Field(
        default=False, validation_alias="HF_HUB_OFFLINE", description="Never ask the model hub for anything."
    )

    url: str = Field(
        default="http://127.0.0.1:8321/v1",
        validation_alias=AliasChoices("TUNEWISE_URL", "OPENAI_BASE_URL"),
        description="The server that commands such as `tunewise jobs` ask.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("TUNEWISE_API_KEY", "OPENAI_API_KEY"),
        description="The key that these commands show.",
    )

    state: Path | None = Field(
        default=None, description="Where `tunewise up` keeps files, jobs and models; by default `state` under home."
    )
    database_url: str | None = Field(
        default=None, description="postgresql+psycopg://…; by default SQLite in the state directory."
    )
    aliases: dict[str, str] = Field(
        default={}, description='Model names that stand for others, as JSON: {"gpt-4o-mini": "smollm2-135m-instruct"}.'
    )
    organization: str = Field(default="tunewise", description="The organization of callers without a key.")
    allowed_hosts: tuple[HostName, ...] = Field(
        default=(),
        description='Names, without ports, that a server without keys answers to, as JSON: ["box.example"].',
    )
    allowed_origins: tuple[Origin, ...] = Field(
        default=(),
        description="Sites whose pages may send requests here, as JSON; behind a proxy that changes the Host header, "
        'the server\'s own is one: ["https://tunewise.example"].',
    )
    overlong: Literal["truncate", "error"] = Field(
        default="truncate", description="What a job does with rows longer than the model's context."
    )
    result_base64: bool = Field(
        default=False, description="Send result files in base64, as OpenAI does, for code that decodes them."
    )
    service_statuses: bool = Field(
        default=False, description="Send `paused` and `pending`, which the SDK's types do not have, as the services do."
    )
    lease_seconds: float = Field(
        default=30.0, gt=0, description="How long a worker may be silent before another takes its jobs."
    )
    idle_seconds: float = Field(
        default=900.0, gt=0, description="How long a hosted base model is kept when nobody asks it anything."
    )
    hosted_adapters: int = Field(
        default=64, ge=1, description="How many tuned models a base model holds before the least recently used go."
    )
    hosted_waiting: int = Field(
        default=512,
        ge=0,
        description="How many requests may wait for a base model before others are told to come back.",
    )
    engine: EngineConfig = Field(
        default=TorchEngine(),
        description="What hosts models, as JSON: ours, an OpenAI-compatible server that somebody runs, "
        '{"kind": "openai", "base_url": "http://gpu:8000/v1"}, or a vLLM that is started here, {"kind": "vllm"}; '
        "[hosting](how-to/host-elsewhere.md) has all fields.",
    )
    trainings_at_once: int = Field(
        default=1,
        ge=1,
        description="How many jobs a worker trains at once, as far as memory allows; they share the cores.",
    )
    training_memory_mb: int | None = Field(
        default=None, ge=1, description="Memory that all trainings of a worker may take; by default what is free."
    )
    max_upload_mb: int = Field(default=512, ge=1, description="The largest file that is taken in one request.")

    @property
    def state_dir(self) -> Path:
        """Everything that `tunewise up` must not lose."""
        return self.state or self.home / "state"

    @property
    def database(self) -> str:
        """The URL of the database."""
        return self.database_url or f"sqlite:///{self.state_dir / 'tunewise.db'}"

    @property
    def models_elsewhere(self) -> tuple[str, ...]:
        """The models that another server is said to have: they need no files here."""
        return tuple(self.engine.models) if isinstance(self.engine, OpenAIEngine) else ()

    @property
    def models_dir(self) -> Path:
        """One directory per converted base model, named by the content hash of its source."""
        return self.home / "models"

    @property
    def cache_dir(self) -> Path:
        """What can be deleted at any time without losing anything but time."""
        return self.home / "cache"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        ConfigError: an environment variable holds what its setting cannot be.
    """
    try:
        return Settings()
    except SettingsError as error:
        raise ConfigError(
            "invalid_setting", f"{error}: it is no JSON. Write it as docs/settings.md shows, or unset it."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        variable = name if name.isupper() else f"TUNEWISE_{name.upper()}"
        raise ConfigError(
            "invalid_setting",
            f"Environment variable {variable} is {first['input']!r}: {first['msg']}. Correct or unset it.",
            param=variable,
        ) from error


def secret(name: str) -> str | None:
    """The value of an environment variable that the user named as the place of a key."""
    return os.environ.get(name)


def environment_without(prefix: str, **added: str) -> dict[str, str]:
    """The environment of this process for a child, without the variables that begin with `prefix`, and with `added`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefix)} | added


def environment(**defaults: str) -> dict[str, str]:
    """The environment of a child: this process's own, and of `defaults` what is not set there."""
    return defaults | dict(os.environ)


def missing_packages(*names: str) -> list[str]:
    """Those that are not installed, without importing any."""
    return [name for name in names if find_spec(name) is None]


def set_environment(**defaults: str) -> None:
    """Set what libraries of this process read, where it is not set already."""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def installed_versions(*packages: str) -> dict[str, str]:
    """Version of each package, and of Python, without importing any."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
