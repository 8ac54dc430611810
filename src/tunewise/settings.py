"""Settings: the only place that reads the environment.

Every setting is an environment variable named `TUNEWISE_` and its name in capitals.
"""

from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What differs from machine to machine. Nothing of a run's own configuration stands here."""

    model_config = SettingsConfigDict(env_prefix="TUNEWISE_", frozen=True, extra="ignore")

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
    """The settings of this process, read once."""
    return Settings()
