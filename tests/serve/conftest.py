"""A running server with the tiny model and two adapters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.running import Server, save_adapter, start
from tunewise.contracts.run import BaseModelRef

ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
    "some": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"], "use_rslora": True},
    "third": {"r": 8, "lora_alpha": 32, "target_modules": ["gate_proj", "o_proj", "k_proj"], "use_dora": True},
}


@pytest.fixture(scope="session")
def adapters(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("adapters")
    for seed, (name, shape) in enumerate(ADAPTERS.items()):
        save_adapter(tiny_model.path, directory / name, seed, shape)
    return {name: directory / name for name in ADAPTERS}


@pytest.fixture(scope="session")
def server(
    tiny_model: BaseModelRef, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    ready = tmp_path_factory.mktemp("serve") / "ready.json"
    running = start(
        tiny_model.path, ready, "--adapter", f"all={adapters['all']}", "--adapter", f"some={adapters['some']}"
    )
    yield running
    running.client.close()
    running.process.terminate()
    assert running.process.wait(timeout=60) == 0
