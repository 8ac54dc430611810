"""AutoTrain's configuration files as Tunewise understands them: what became of every key, and what will be run."""

from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field

from tunewise.contracts.fine_tuning import MethodType
from tunewise.contracts.frozen import Frozen

Fate: TypeAlias = Literal["used", "translated", "default", "no counterpart"]


class KeyFate(Frozen):
    """What became of one key of the file, or of one that the file leaves to AutoTrain's default."""

    key: str = Field(description="As a path: params.lr.")
    value: str = Field(description="As the file has it, its variables filled in; tokens are never shown.")
    fate: Fate
    became: str = Field(description="The field and value of the Tunewise config, or why there is none.")


class Translation(Frozen):
    """The equivalent of a file. `config` is `tunewise.yaml` but for the data files, which are converted from `rows`."""

    project: str
    method: MethodType
    keys: tuple[KeyFate, ...]
    config: dict[str, Any]
    rows: str = Field(description="File, directory or hub id.")
    train_split: str | None
    valid_split: str | None
    text_column: str | None = Field(description="Of pairs, the better answer. None: the file leaves it open.")
    prompt_column: str | None = None
    rejected_column: str | None = None


class Prepared(Frozen):
    """An AutoTrain file, ready to run: the config that was written, and the directory that results go to."""

    config: Path
    directory: Path
    keys: tuple[KeyFate, ...]
    notes: tuple[str, ...]
