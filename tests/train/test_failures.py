"""Every way a run can fail ends in a named error in `result.json`, its exit code, and a whole last checkpoint."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.making import events_of, log_of, make_run, make_spec, result_of, row, told, train, write_rows
from tunewise.contracts.run import BaseModelRef, DataFile, TrainSpec
from tunewise.train.failures import named


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataFile, DataFile]:
    directory = tmp_path_factory.mktemp("data")
    return (
        write_rows(directory / "train.jsonl", [row(number) for number in range(12)]),
        write_rows(directory / "valid.jsonl", [row(number) for number in range(100, 103)]),
    )


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, files: tuple[DataFile, DataFile]) -> TrainSpec:
    return make_spec(tiny_model, *files)


def failure_of(run: Path) -> tuple[str, str]:
    """Code and message of the error that a failed run has left; the error event says the same."""
    result = result_of(run)
    assert result.status == "failed"
    assert result.error is not None
    assert result.adapter is None
    return result.error.code, result.error.message


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def limit_memory(more: int) -> None:
    """Let this process have `more` bytes beyond what it has mapped already."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, mapped + more))


def test_a_diverging_run_says_to_lower_the_learning_rate(spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update={"learning_rate": 1e30, "n_epochs": 2}))
    assert train(run) == 5
    code, message = failure_of(run)
    assert code == "loss_not_finite"
    assert "lower the learning rate" in message
    assert [event.level for event in events_of(run)].count("error") == 1


def test_a_full_disk_is_named_and_the_run_goes_on_later(spec: TrainSpec, tmp_path: Path) -> None:
    straight = make_run(tmp_path / "straight", spec)
    assert train(straight) == 0
    size_of_tokenizer = (spec.base_model.path / "tokenizer.json").stat().st_size
    run = make_run(tmp_path / "run", spec)
    assert train(run, partial(limit_file_size, size_of_tokenizer - 1)) == 5
    code, message = failure_of(run)
    assert code == "disk_full"
    assert "free some space" in message
    assert list((run / "checkpoints").iterdir()) == []
    assert train(run) == 0
    assert result_of(run).adapter_sha256 == result_of(straight).adapter_sha256
    assert told(run) == told(straight)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB: room for two checkpoints of the tiny model and not for three."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system takes rights that this user lacks: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_keeps_the_last_checkpoint_whole(spec: TrainSpec, small_disk: Path) -> None:
    run = make_run(small_disk / "run", spec)
    assert train(run) == 5
    assert failure_of(run)[0] == "disk_full"
    written = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert written == ["step-3", "step-6"]
    for name in written:
        assert len(load_file(run / "checkpoints" / name / "adapter_model.safetensors")) == 28
        assert f"step-{json.loads((run / 'checkpoints' / name / 'progress.json').read_text())['step']}" == name


def test_memory_that_runs_out_is_named(spec: TrainSpec, tmp_path: Path) -> None:
    lora = spec.lora.model_copy(update={"rank": 200_000})
    run = make_run(tmp_path / "run", spec.model_copy(update={"lora": lora}))
    assert train(run, partial(limit_memory, 600 * 2**20)) == 5
    code, message = failure_of(run)
    assert code == "out_of_memory"
    assert "lower the LoRA rank" in message


@pytest.mark.parametrize(
    ("change", "exit_code", "code"),
    [
        ({"learning_rate": -1.0}, 5, "invalid_spec"),
        ({"unknown": 1}, 5, "invalid_spec"),
        ({"valid_file": None, "early_stopping_patience": 1}, 5, "early_stopping_needs_validation"),
    ],
)
def test_a_wrong_spec_is_named(
    change: dict[str, object], exit_code: int, code: str, spec: TrainSpec, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", spec)
    (run / "spec.json").write_text(json.dumps(json.loads(spec.model_dump_json()) | change))
    assert train(run) == exit_code
    found, message = failure_of(run)
    assert found == code
    assert "spec.json" in message


def test_a_run_without_a_spec_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert train(tmp_path / "run") == 5
    assert failure_of(tmp_path / "run")[0] == "missing_spec"


def test_a_missing_base_model_is_named(spec: TrainSpec, tmp_path: Path) -> None:
    gone = spec.base_model.model_copy(update={"path": tmp_path / "nowhere"})
    run = make_run(tmp_path / "run", spec.model_copy(update={"base_model": gone}))
    assert train(run) == 5
    code, message = failure_of(run)
    assert code == "missing_base_model"
    assert "tunewise models pull" in message


def test_a_data_error_exits_as_one(spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update={"max_tokens": 40}))
    assert train(run) == 3
    assert failure_of(run)[0] == "overlong_row"


def test_the_command_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tunewise.train", "/no/such/run"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 64
    assert "usage: python -m tunewise.train RUN_DIR" in done.stderr


def test_an_unreadable_checkpoint_is_named(spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec)
    (run / "checkpoints" / "step-3").mkdir(parents=True)
    assert train(run) == 5
    assert failure_of(run)[0] == "unreadable_checkpoint"
    assert "step-3" in log_of(run)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("could not create a memory object"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_each_allocators_words_are_known(error: Exception) -> None:
    known = named(error)
    assert known is not None
    assert known.code == "out_of_memory"


def test_a_fault_of_ours_has_no_friendly_name() -> None:
    assert named(KeyError("x")) is None
    assert named(RuntimeError("shapes cannot be multiplied")) is None
