"""What a paused and a cancelled job leave: checkpoints that are listed, answer, are deployed and are tuned further.

A real worker, real trainers, the real SDK and a real model server on the tiny model.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from api.live import Live, live
from jobs.surviving import PROJECT, Place, start_worker, working
from tunewise.contracts.fine_tuning import Hyperparameters, Method, Supervised
from tunewise.contracts.jobs import Deployment, JobStatus, TunedModel
from tunewise.contracts.run import SPEC_FILE, TrainSpec
from tunewise.jobs.checkpoints import KEPT_EPOCHS
from tunewise.store import models

DEPLOYMENT = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a/deployments/owl"
    "?api-version=2024-10-21"
)


@pytest.fixture
def server(place: Place) -> Iterator[Live]:
    with live(place.platform) as running:
        yield running


@pytest.fixture
def client(server: Live) -> Iterator[openai.OpenAI]:
    with server.client(project=PROJECT) as client:
        yield client


def method(n_epochs: int, batch_size: int) -> Method:
    hyperparameters = Hyperparameters(n_epochs=n_epochs, batch_size=batch_size)
    return Method(supervised=Supervised(hyperparameters=hyperparameters))


def stopped_in_its_second_epoch(place: Place, status: JobStatus) -> str:
    """A job of three epochs with 40 steps each, stopped as the API does, and let go of by its worker."""
    job_id = place.submit(method=method(n_epochs=3, batch_size=1))
    place.wait_for_steps(job_id, 45)
    assert place.move(job_id, status, f"The job was {status}")
    place.wait_until_released(job_id)
    return job_id


def answer(client: openai.OpenAI, model: str) -> str:
    said = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "List 3: kale"}], max_tokens=4, temperature=0
    )
    return said.choices[0].message.content or ""


def tune_further(place: Place, client: openai.OpenAI, parent: str, file: str) -> None:
    """A job that begins from a checkpoint ends, and did begin from those weights."""
    made = client.fine_tuning.jobs.create(
        model=parent,
        training_file=file,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 20}}},
    )
    assert place.wait_for(made.id, "succeeded", "failed").status == "succeeded", place.story()
    spec = TrainSpec.model_validate_json((place.run_dir(made.id) / SPEC_FILE).read_bytes())
    with place.platform.database.read() as session:
        model = models.owned(session, PROJECT, parent)
    assert model is not None
    assert spec.parent is not None
    assert spec.parent.sha256 == place.adapter_sha256(model)


def deploy(server: Live, model: str) -> httpx.Response:
    body = {"sku": {"name": "Standard"}, "properties": {"model": {"format": "OpenAI", "name": model, "version": "1"}}}
    return server.http.put(DEPLOYMENT, json=body, headers={"OpenAI-Project": PROJECT})


def test_the_checkpoint_of_a_paused_job_is_a_model_until_the_job_goes_on_and_after(
    place: Place, server: Live, client: openai.OpenAI
) -> None:
    with working(place):
        job_id = stopped_in_its_second_epoch(place, "paused")
        newest, of_epoch = client.fine_tuning.jobs.checkpoints.list(job_id).data
        assert of_epoch.step_number == 40 < newest.step_number < 80
        name = newest.fine_tuned_model_checkpoint
        last = client.fine_tuning.jobs.list_events(job_id, limit=1).data[0].message
        assert last == f"Checkpoint created at step {newest.step_number} with Snapshot ID: {name}"
        assert newest.metrics.train_loss
        assert newest.metrics.step == newest.step_number
        assert deploy(server, newest.id).status_code == 201
        assert answer(client, name) == answer(client, "owl")
        tune_further(place, client, name, place.job(job_id).request.training_file)
        assert place.move(job_id, "queued", "The job was resumed")
        assert place.wait_for(job_id, "succeeded", "failed").status == "succeeded"
    assert [model.step for model in place.models(job_id)] == [40, newest.step_number, 80, 120]
    numbers = place.numbers(job_id)
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_checkpoint_of_a_cancelled_job_stays_a_model(place: Place, server: Live, client: openai.OpenAI) -> None:
    with working(place):
        job_id = stopped_in_its_second_epoch(place, "cancelled")
        (left,) = client.fine_tuning.jobs.checkpoints.list(job_id).data
        assert left.step_number == 40
        assert not (place.run_dir(job_id) / "checkpoints").exists(), "a cancelled job goes on from nothing"
        name = left.fine_tuned_model_checkpoint
        assert deploy(server, name).status_code == 201
        assert answer(client, name) == answer(client, "owl")
        tune_further(place, client, name, place.job(job_id).request.training_file)
    server.http.delete(DEPLOYMENT, headers={"OpenAI-Project": PROJECT})
    assert client.models.delete(name).deleted
    assert list(place.platform.adapters_dir.iterdir()) == []


def test_a_paused_job_that_is_cancelled_leaves_its_checkpoints_and_nothing_else(
    place: Place, client: openai.OpenAI
) -> None:
    with working(place):
        job_id = stopped_in_its_second_epoch(place, "paused")
        before = place.models(job_id)
        assert (place.run_dir(job_id) / "checkpoints").exists()
        assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
        place.wait(lambda: not (place.run_dir(job_id) / "checkpoints").exists())
        place.wait_until_released(job_id)
    assert place.models(job_id) == before
    assert len(before) == 2


def test_a_worker_killed_while_a_job_pauses_publishes_its_checkpoint_once(place: Place) -> None:
    job_id = place.submit()
    worker = start_worker(place)
    place.wait_for_steps(job_id, 4)
    assert place.move(job_id, "paused", "The job was paused")
    place.wait(lambda: any(place.platform.adapters_dir.iterdir()))
    worker.kill()
    with working(place):
        place.wait_until_released(job_id)
    told = [words for words in place.words(job_id) if words.startswith("Checkpoint")]
    (model,) = place.models(job_id)
    assert told == [f"Checkpoint created at step {model.step} with Snapshot ID: …"]


def test_only_the_last_three_epochs_and_what_is_deployed_are_kept(place: Place) -> None:
    job_id = place.submit(method=method(n_epochs=6, batch_size=2))
    with working(place):
        place.wait(lambda: bool(place.models(job_id)))
        deployed = place.models(job_id)[0]
        with place.platform.database.write() as session:
            models.put_deployment(session, deployment_of(deployed))
        assert place.wait_for(job_id, "succeeded", "failed").status == "succeeded"
        place.wait_until_released(job_id)
    kept = place.models(job_id)
    assert [model.step for model in kept if model != deployed] == [80, 100, 120]
    assert len(kept) == KEPT_EPOCHS + 1
    assert {path.name for path in place.platform.adapters_dir.iterdir()} == {
        Path(model.adapter).name for model in kept if not model.is_final
    }


def deployment_of(model: TunedModel) -> Deployment:
    return Deployment(name="d", scope="s/g/a", project=PROJECT, model=model.name, created_at=1, updated_at=1)
