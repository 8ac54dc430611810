"""Before tuned weights are hosted they are what training wrote, byte for byte; and answers belong to one set."""

from hashlib import sha256
from pathlib import Path

import pytest

from evaluate.finished_run import RECIPES, training_run
from tunewise.contracts.run import RunResult
from tunewise.errors import ModelError
from tunewise.jobs.weights import verified, weights_of


def left_behind(run_dir: Path, weights: bytes) -> RunResult:
    """A run directory with an adapter, and the run's result."""
    (run_dir / "adapter").mkdir(parents=True)
    (run_dir / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    _, result, _ = training_run(RECIPES)
    return result.model_copy(update={"adapter_sha256": sha256(weights).hexdigest()})


def test_the_adapter_that_was_trained_passes(tmp_path: Path) -> None:
    adapter = weights_of(tmp_path / "run", left_behind(tmp_path / "run", b"weights"))
    assert verified(adapter) == tmp_path / "run" / "adapter"


def test_other_weights_are_refused_with_both_hashes_and_a_remedy(tmp_path: Path) -> None:
    adapter = weights_of(tmp_path / "run", left_behind(tmp_path / "run", b"weights"))
    file = adapter.directory / "adapter_model.safetensors"
    file.write_bytes(b"Weights")
    with pytest.raises(ModelError) as raised:
        verified(adapter)
    assert raised.value.code == "adapter_changed"
    for said in (
        str(file),
        sha256(b"weights").hexdigest(),
        sha256(b"Weights").hexdigest(),
        "result.json and run again",
    ):
        assert said in raised.value.message


def test_missing_weights_are_named(tmp_path: Path) -> None:
    adapter = weights_of(tmp_path / "run", left_behind(tmp_path / "run", b"weights"))
    (adapter.directory / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="No such file or directory; delete") as raised:
        verified(adapter)
    assert raised.value.code == "adapter_missing"


def test_a_model_is_held_to_its_own_weights(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    changes = {"adapter": None, "adapter_sha256": None, "model": "model"}
    result = left_behind(tmp_path / "other", b"weights").model_copy(
        update=changes | {"model_sha256": sha256(b"weights").hexdigest()}
    )
    assert verified(weights_of(tmp_path / "run", result)) == model
    (model / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ModelError, match="training wrote"):
        verified(weights_of(tmp_path / "run", result))


def test_a_result_without_an_adapter_is_named(tmp_path: Path) -> None:
    result = left_behind(tmp_path / "run", b"weights").model_copy(update={"adapter": None})
    with pytest.raises(ModelError, match="names no adapter"):
        weights_of(tmp_path / "run", result)


def test_answers_of_one_run_directory_are_kept_apart_by_the_weights(tmp_path: Path) -> None:
    result = left_behind(tmp_path / "run", b"weights")
    other = result.model_copy(update={"adapter_sha256": "0" * 64})
    elsewhere = weights_of(tmp_path / "train-other", result)
    one = weights_of(tmp_path / "run", result)
    assert len({one.identity, weights_of(tmp_path / "run", other).identity, elsewhere.identity}) == 3
