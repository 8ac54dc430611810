"""Asking the arms: nothing is hosted that is not what was trained."""

from pathlib import Path

import pytest
from rich.console import Console

from evaluate.finished_run import RECIPES, run_config
from evaluate.making import example, row
from tunewise.cli.watch import JsonWatcher
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Template
from tunewise.errors import ModelError
from tunewise.jobs.adapter import Adapter
from tunewise.jobs.arms import ask_tuned
from tunewise.jobs.lab import Lab
from tunewise.machine import Machine
from tunewise.settings import Settings


@pytest.fixture
def lab(tmp_path: Path, smollm2: BaseModelRef, settings: Settings) -> Lab:
    return Lab(
        config=run_config(RECIPES),
        config_path=tmp_path / "tunewise.yaml",
        base=smollm2,
        template=Template.load(smollm2.path),
        machine=Machine(name="cpu", cores=2, memory_bytes=8 << 30, bfloat16=False, gflops=100.0),
        dtype="float32",
        versions={},
        directory=tmp_path / "runs",
        settings=settings,
        watcher=JsonWatcher(Console(quiet=True)),
    )


def test_an_adapter_that_is_not_the_trained_one_is_never_hosted(lab: Lab, tmp_path: Path) -> None:
    directory = tmp_path / "train-1" / "adapter"
    directory.mkdir(parents=True)
    (directory / "adapter_model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="training wrote 0000"):
        ask_tuned(lab, [row("a")], [example("q", "a")], Adapter(directory, "0" * 64))
    assert not (lab.directory / "serve").exists()
