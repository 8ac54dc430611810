"""`tunewise replay` on jobs that a live server was asked for and a real worker has trained; the tiny model."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import openai
import pytest

from api.live import Live, live
from jobs.nursery import Nursery
from jobs.surviving import BASE, Place, kill_trainers, make_place, working
from train.making import row
from tunewise.contracts.run import BaseModelRef

ROWS = "".join(f"{row(number)}\n" for number in range(12)).encode()


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """As the worker's trainers: with another number of threads, sums are rounded otherwise."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(usable)})
    yield
    os.sched_setaffinity(0, usable)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: BaseModelRef) -> Iterator[Place]:
    place = make_place(tmp_path_factory.mktemp("replay"), nursery, tiny_model)
    yield place
    kill_trainers(place)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Live]:
    with live(place.platform) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[openai.OpenAI]:
    with server.client(project="p") as client:
        yield client


def tune(place: Place, client: openai.OpenAI, model: str = BASE) -> str:
    """A job with the SDK's calls, trained to its end."""
    file = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=file,
        validation_file=file,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
    )
    with working(place):
        assert place.wait_for(job.id, "succeeded", "failed").status == "succeeded", place.story()
        place.wait_until_released(job.id)
    return job.id


def replay(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a person runs it beside the server."""
    settings = place.platform.settings
    variables = {"TUNEWISE_HOME": str(settings.home), "TUNEWISE_STATE": str(settings.state_dir), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "tunewise.cli", "replay", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_job_is_replayed_bit_for_bit_while_the_server_runs(place: Place, client: openai.OpenAI) -> None:
    job_id = tune(place, client)
    told = replay(place, job_id)
    assert told.returncode == 0, told.stdout + told.stderr
    digest = place.result(job_id).adapter_sha256
    assert re.search(rf"EQUAL\nweights  original  {digest}\n         replayed  {digest}\n", told.stdout)
    assert "metrics  6 steps compared, 0 differ" in told.stdout
    assert "version" not in told.stdout
    assert client.fine_tuning.jobs.retrieve(job_id).status == "succeeded"
    assert len(place.models(job_id)) == 2, "a replay makes no models"


def test_a_job_that_tuned_a_checkpoint_further_is_replayed_after_the_checkpoint_is_deleted(
    place: Place, client: openai.OpenAI
) -> None:
    parent = place.models(tune(place, client))[0].name
    job_id = tune(place, client, parent)
    assert client.models.delete(parent).deleted
    told = replay(place, job_id)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "EQUAL" in told.stdout


def test_a_replay_whose_training_file_was_deleted_says_which(place: Place, client: openai.OpenAI) -> None:
    job_id = tune(place, client)
    file = client.fine_tuning.jobs.retrieve(job_id).training_file
    client.files.delete(file)
    told = replay(place, job_id)
    assert told.returncode != 0
    assert file in told.stderr
    assert "Traceback" not in told.stderr + told.stdout


def test_a_changed_manifest_is_told_as_different(place: Place, client: openai.OpenAI) -> None:
    job_id = tune(place, client)
    manifest = place.run_dir(job_id) / "spec.json"
    manifest.write_text(manifest.read_text().replace('"weight_decay": 0.0', '"weight_decay": 0.5'))
    told = replay(place, job_id, "--output", str(place.platform.settings.state_dir / "elsewhere"))
    assert told.returncode == 1, told.stdout + told.stderr
    assert re.search(r"DIFFERENT\n", told.stdout)
    assert re.search(r"metrics  6 steps compared, [1-6] differ, the first at step [2-6]\n", told.stdout)


@pytest.mark.parametrize("status", ["cancelled", "unknown"])
def test_what_cannot_be_replayed_is_named(place: Place, status: str) -> None:
    job_id = "ftjob-0"
    if status == "cancelled":
        job_id = place.submit()
        assert place.move(job_id, "cancelled", "The job was cancelled")
    told = replay(place, job_id)
    assert told.returncode != 0
    assert job_id in told.stderr
    assert "Traceback" not in told.stderr
