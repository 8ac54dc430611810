"""What the stages of one experiment share: its config, its base model, its machine, and where its results are kept."""

from pathlib import Path
from typing import NamedTuple

from tunewise import __version__, catalogue, machine
from tunewise.contracts.config import RunConfig
from tunewise.contracts.fine_tuning import Dtype
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Template
from tunewise.jobs.config_file import load_config
from tunewise.jobs.progress import Watcher
from tunewise.machine import Machine
from tunewise.planning import dtype
from tunewise.settings import Settings, installed_versions


class Lab(NamedTuple):
    """One experiment, before its first stage. `directory` holds all that comes of it."""

    config: RunConfig
    config_path: Path
    base: BaseModelRef
    template: Template
    machine: Machine
    dtype: Dtype
    versions: dict[str, str]
    directory: Path
    settings: Settings
    watcher: Watcher

    @property
    def stages_dir(self) -> Path:
        """Where finished stages are kept, each under the hash of its inputs."""
        return self.directory / "stages"

    @property
    def tuned_name(self) -> str:
        """The name under which the tuned model is hosted."""
        return f"ft:{self.base.name}::{self.config.suffix}"


def set_up(config_path: Path, directory: Path | None, settings: Settings, watcher: Watcher) -> Lab:
    """Read the config, find (or fetch) the base model and look at the machine.

    Raises:
        ConfigError: the config file is at fault.
        ModelError: the base model cannot be found or read.
    """
    config = load_config(config_path)
    watcher.stage("set-up", config.model)
    base = catalogue.find(config.model, settings, notify=watcher.note)
    hardware = machine.probe()
    return Lab(
        config=config,
        config_path=config_path,
        base=base,
        template=Template.load(base.path),
        machine=hardware,
        dtype=dtype(config.training, hardware),
        versions=installed_versions("torch", "transformers", "peft", "numpy") | {"tunewise": __version__},
        directory=directory or config_path.resolve().parent / "runs" / config.suffix,
        settings=settings,
        watcher=watcher,
    )
