"""What the stages of one experiment share: its config, its base model, its machine, and where its results are kept.

An experiment is a `tunewise run`, or the study of a job that a worker trains (`jobs.study`).
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from tunewise import __version__, catalogue, machine
from tunewise.contracts.config import RunConfig
from tunewise.contracts.fine_tuning import Dtype
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Template
from tunewise.errors import DataError
from tunewise.jobs.config_file import load_config
from tunewise.jobs.progress import Watcher
from tunewise.machine import Machine
from tunewise.planning import dtype, longest_row
from tunewise.settings import EngineConfig, Settings, TorchEngine, installed_versions


class Lab(NamedTuple):
    """One experiment, before its first stage. `directory` holds all that comes of it.

    `tuned_name`: under which the tuned model is hosted; `origin`: what the manifest says of where the config is from;
    `remedy`: what to do about errors in the data.
    """

    config: RunConfig
    title: str
    tuned_name: str
    origin: dict[str, str]
    base: BaseModelRef
    template: Template
    machine: Machine
    dtype: Dtype
    versions: dict[str, str]
    remedy: str
    directory: Path
    watcher: Watcher

    @property
    def max_tokens(self) -> int:
        """The longest row that is trained on: as asked, else the model's context."""
        return _max_tokens(self.config, self.base)

    @property
    def engine(self) -> EngineConfig:
        """What hosts the models while they are asked."""
        return self.config.engine or TorchEngine()

    @property
    def stages_dir(self) -> Path:
        """Where finished stages are kept, each under the hash of its inputs."""
        return self.directory / "stages"


def set_up(config_path: Path, directory: Path | None, settings: Settings, watcher: Watcher) -> Lab:
    """Read the config, find (or fetch) the base model and look at the machine.

    Raises:
        ConfigError: the config file is at fault.
        ModelError: the base model cannot be found or read.
    """
    config = with_engine(load_config(config_path), settings)
    watcher.stage("set-up", config.model)
    base = catalogue.find(config.model, settings, notify=watcher.note)
    hardware = machine.probe()
    return Lab(
        config=config,
        title=f"{config.suffix}: {base.name} tuned on {config.data.train.name}",
        tuned_name=f"ft:{base.name}::{config.suffix}",
        origin={"config": str(config_path), "config sha256": sha256(config_path)},
        base=base,
        template=Template.load(base.path),
        machine=hardware,
        dtype=dtype(config.training, hardware),
        versions=installed_versions("torch", "transformers", "peft", "numpy") | {"tunewise": __version__},
        remedy=_see_all(config, base),
        directory=directory or config_path.resolve().parent / "runs" / config.suffix,
        watcher=watcher,
    )


def with_engine(config: RunConfig, settings: Settings) -> RunConfig:
    """The config with the machine's engine, where it names none."""
    return config if config.engine else config.model_copy(update={"engine": settings.engine})


def _max_tokens(config: RunConfig, base: BaseModelRef) -> int:
    asked = config.data.max_tokens
    return longest_row(config.training.method.type, base.context_length) if asked == "auto" else asked


def _see_all(config: RunConfig, base: BaseModelRef) -> str:
    """The command that shows every error in the data."""
    data = config.data
    named = [("--train", data.train), ("--valid", data.valid), ("--test", data.test)]
    paths = " ".join(f"{flag} {path}" for flag, path in named if path is not None)
    limits = f"--max-tokens {_max_tokens(config, base)} --overlong {data.overlong}"
    return f"See them all with: tunewise data check {paths} --model {config.model} {limits}"


def sha256(path: Path) -> str:
    """The content hash (hex) of a file that the config names.

    Raises:
        DataError: file_not_found.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as missing:
        raise DataError(
            "file_not_found", f"{path}: no such file; check `data:` in the config", param="data"
        ) from missing
