"""Weights & Biases: the real package writes a real offline run of a job that has ended, and asks nobody anything."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tunewise.contracts.jobs import Integration, Job, JobRequest, JobStatus, WandbIntegration
from tunewise.contracts.run import RunEvent, StepMetrics
from tunewise.jobs import integrations
from tunewise.jobs.attend import attend
from tunewise.jobs.desk import Desk
from tunewise.jobs.integrations import wandb_run_id, write_runs
from tunewise.jobs.platform import Platform, open_platform
from tunewise.jobs.trainer import spawn
from tunewise.machine import probe
from tunewise.settings import Settings
from tunewise.store import events, jobs
from tunewise.store.rows import new_id

STEPS = 400  # enough for several blocks of the package's file


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = open_platform(Settings(home=tmp_path, state=tmp_path / "state"))
    yield platform
    platform.database.close()


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Who has tried to reach the network: every client is told to go through this door, and to its own server here."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"http://127.0.0.1:{door.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "WANDB_BASE_URL"):
            monkeypatch.setenv(name, address)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)

        def listen() -> None:
            while True:
                try:
                    came.append(door.accept()[1])
                except OSError:
                    return

        threading.Thread(target=listen, daemon=True).start()
        yield came
        door.shutdown(socket.SHUT_RDWR)


def ended(platform: Platform, status: JobStatus = "succeeded", steps: int = STEPS, **wandb: Any) -> Job:  # noqa: ANN401  # any field
    """A job that has ended in this worker's hands, with what its trainer told."""
    asked = Integration(type="wandb", wandb=WandbIntegration(project="greens", **wandb))
    request = JobRequest(
        model="m", base="m", training_file="file-1", seed=5, metadata={"secret": "x"}, integrations=(asked,)
    )
    job = Job(
        id=new_id("ftjob-"), project="p", organization="o", request=request, status=status, created_at=7, owner="w"
    )
    told = [
        StepMetrics(
            step=n,
            total_steps=steps,
            train_loss=1 / n,
            train_mean_token_accuracy=0.5,
            valid_loss=2 / n if n % 10 == 0 else None,
            tokens=n,
            seconds=n,
        )
        for n in range(1, steps + 1)
    ]
    journal = [
        RunEvent(seq=one.step, created_at=9, level="info", type="metrics", message=f"Step {one.step}", data=one)
        for one in told
    ]
    (platform.runs_dir / job.id).mkdir()
    with platform.database.write() as session:
        jobs.add(session, job)
        events.copy(session, job.id, journal)
    return job


def work_on(platform: Platform, job: Job) -> list[str]:
    """Let a worker attend to the job until it lets go; what it told, without the steps."""
    attend(Desk(platform, "w", probe, spawn, threading.Event(), lambda _: None), job.id)
    with platform.database.read() as session:
        page = events.listed(session, job.id, after=None, limit=10_000)
        left = jobs.find(session, job.id)
    assert left is not None
    assert left.owner is None
    assert page is not None
    return [event.message or "" for event in page.items[::-1] if event.type == "message"]


def records(place: Path) -> list[Any]:
    """What the package has written: a log in blocks of 32 KiB (LevelDB's), a protocol buffer each."""
    pb: Any = import_module("wandb.proto.wandb_internal_pb2")

    (file,) = place.glob("*.wandb")
    data, at, whole, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := -at % 32768) < 7 and left:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a record's last part
            found.append(pb.Record.FromString(whole))
            whole = b""
    return found


def history(place: Path) -> list[dict[str, float]]:
    """Every step as the package tells it."""
    steps = [record.history for record in records(place) if record.WhichOneof("record_type") == "history"]
    return [{".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in one.item} for one in steps]


def test_a_real_offline_run_has_the_metrics_and_nobody_was_called(platform: Platform, callers: list[object]) -> None:
    job = ended(platform, name="first", entity="team", tags=("a", "b"))
    (words,) = work_on(platform, job)
    begin = "Weights & Biases run written; to upload it: wandb sync "
    assert words.startswith(begin)
    place = Path(words.removeprefix(begin))
    assert place == platform.runs_dir / job.id / "wandb" / f"offline-run-19700101_000007-{wandb_run_id(job.id, 0)}"
    told = history(place)
    assert [step["_step"] for step in told] == list(range(1, STEPS + 1))
    assert [step["train_loss"] for step in told] == [1 / n for n in range(1, STEPS + 1)]
    assert [step["_step"] for step in told if "valid_loss" in step] == list(range(10, STEPS + 1, 10))
    (run,) = [record.run for record in records(place) if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, run.entity, list(run.tags)) == ("greens", "first", "team", ["a", "b"])
    assert run.run_id == wandb_run_id(job.id, 0)
    assert run.host != socket.gethostname()
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["job_id"], config["seed"], config["status"]) == (job.id, 5, "succeeded")
    assert config["method"] == "supervised"
    assert not any(b"secret" in file.read_bytes() for file in place.rglob("*") if file.is_file())
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name], "nothing is left aside"
    assert callers == []


def test_a_run_that_was_written_before_a_kill_is_told_and_not_written_again(platform: Platform) -> None:
    job = ended(platform, "failed", steps=3)
    (place,) = write_runs(platform, job)
    before = place.stat().st_mtime_ns
    (words,) = work_on(platform, job)
    assert words.endswith(f"wandb sync {place}")
    with platform.database.write() as session:
        jobs.claim(session, job.model_copy(update={"owner": None}), "w")
    assert work_on(platform, job) == [words]
    assert place.stat().st_mtime_ns == before
    (run,) = [record.run for record in records(place) if record.WhichOneof("record_type") == "run"]
    assert run.display_name == job.id


def test_a_package_that_fails_is_a_warning_and_the_job_stays_as_it_is(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrations, "WRITE_SECONDS", 0.01)
    job = ended(platform, steps=1)
    (words,) = work_on(platform, job)
    assert words.startswith("The Weights & Biases run could not be written: it took longer than")
    with platform.database.read() as session:
        after = jobs.find(session, job.id)
    assert after is not None
    assert (after.status, after.error) == ("succeeded", None)


def test_a_job_without_a_step_has_no_run(platform: Platform) -> None:
    assert work_on(platform, ended(platform, "cancelled", steps=0)) == []
