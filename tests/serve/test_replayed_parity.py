"""An adapter answers once it answers as when its training ended; one that does not is refused, and the others stay."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve.running import save_adapter
from serve.test_engine import generation
from train.making import make_run, make_spec, row, train, write_rows
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError
from tunewise.serve import __main__ as serve
from tunewise.serve.local import LocalEngine

SHAPE = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def trained(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    rows = write_rows(place / "train.jsonl", [row(number) for number in range(12)])
    run = make_run(place / "run", make_spec(tiny_model, rows, n_epochs=1))
    assert train(run) == 0
    return run / "adapter"


@pytest.fixture(scope="module")
def local(tiny_model: BaseModelRef) -> Iterator[LocalEngine]:
    with LocalEngine(tiny_model.path, torch.float32) as running:
        yield running


def spoilt(trained: Path, place: Path) -> Path:
    """The adapter with one matrix of another scale, as after a mistake in a conversion."""
    place.mkdir()
    for file in trained.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    tensors = load_file(place / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.down_proj.lora_B.weight"))
    tensors[name] = tensors[name] * -4
    save_file(tensors, place / "adapter_model.safetensors", metadata={"format": "pt"})
    return place


def test_what_was_trained_is_loaded(local: LocalEngine, trained: Path) -> None:
    local.engine.load_adapter("good", trained)
    assert local.generate([generation((5, 6, 7), "good")])[0].texts


def test_what_was_changed_is_refused_by_prompt_and_token_and_leaves_no_trace(
    local: LocalEngine, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"'bad' from .*: prompt \d of \d \(.*List.*\), token \d+ of the answer") as no:
        local.engine.load_adapter("bad", spoilt(trained, tmp_path / "bad"))
    assert no.value.code == "parity_failed"
    assert "bad" not in local.engine.adapters
    local.engine.load_adapter("bad", trained)
    local.engine.unload_adapter("bad")


def test_an_adapter_from_elsewhere_is_loaded_as_it_is(
    local: LocalEngine, tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    save_adapter(tiny_model.path, tmp_path / "foreign", 3, SHAPE)
    local.engine.load_adapter("foreign", tmp_path / "foreign")
    assert "foreign" in local.engine.adapters


def test_records_of_another_vocabulary_are_refused_and_the_engine_goes_on(
    local: LocalEngine, trained: Path, tmp_path: Path
) -> None:
    place = tmp_path / "strange"
    place.mkdir()
    for file in trained.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    parity = json.loads((place / "parity.json").read_text())
    parity["prompts"][0]["prompt"][0] = 10**6
    (place / "parity.json").write_text(json.dumps(parity))
    with pytest.raises(ModelError, match="token 1000000 of a model of 49152 tokens") as refused:
        local.engine.load_adapter("strange", place)
    assert refused.value.code == "unreadable_parity"
    assert local.generate([generation((5, 6, 7))])[0].texts


def test_a_server_does_not_start_with_a_model_that_is_not_what_was_trained(
    tiny_model: BaseModelRef, trained: Path, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    place.mkdir()
    for file in tiny_model.path.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    (place / "parity.json").write_bytes((trained / "parity.json").read_bytes())
    with pytest.raises(ModelError, match=r"'whole' from .*model: prompt"):
        serve.build(serve._parser().parse_args(["--model", str(place), "--name", "whole", "--dtype", "float32"]))
