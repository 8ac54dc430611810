"""Settings: the only place that reads the environment.

Every setting is an environment variable named `TUNEWISE_` and its name in capitals.
"""

import os
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tunewise.errors import ConfigError


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


def installed_versions(*packages: str) -> dict[str, str]:
    """Version of each package, and of Python, without importing any."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
