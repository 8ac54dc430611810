"""A job in a worker's hands, from submission to its models and result file."""

from pathlib import Path

import pytest

from jobs.nursery import Nursery
from jobs.surviving import STEPS, Place, make_place, working
from tunewise.contracts.run import BaseModelRef, TrainSpec
from tunewise.jobs.results import result_file_id


@pytest.fixture
def place(tmp_path: Path, nursery: Nursery, tiny_model: BaseModelRef) -> Place:
    return make_place(tmp_path, nursery, tiny_model)


def test_a_job_is_trained_to_its_end_and_tells_openais_story(place: Place) -> None:
    job_id = place.submit(suffix="greens")
    with working(place):
        job = place.wait_for(job_id, "succeeded", "failed")
        place.wait(lambda: place.job(job_id).owner is None)
    assert job.status == "succeeded"
    told = [event.message or "" for event in place.events(job_id)]
    first, second, final = place.models(job_id)
    assert told[:4] == [
        f"Created fine-tuning job: {job_id}",
        f"Validating training file: {job.request.training_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
    ]
    story = [f"Step {n}/{STEPS}" for n in range(1, STEPS + 1)]
    story.insert(10, f"Checkpoint created at step 10 with Snapshot ID: {first.name}")
    story.insert(21, f"Checkpoint created at step 20 with Snapshot ID: {second.name}")
    assert [message.partition(": training")[0] for message in told[4:-2]] == story
    assert told[-2:] == [
        f"New fine-tuned model created: {final.name}",
        "The job has successfully completed",
    ]
    assert final.name.startswith("ft:test/tiny:org:greens:")
    assert first.name.endswith(":ckpt-step-10")
    assert job.fine_tuned_model == final.name
    assert [model.step for model in place.models(job_id)] == [10, 20, 30]
    for model in place.models(job_id):
        assert (place.platform.settings.state_dir / model.adapter / "adapter_model.safetensors").is_file()
        assert not (place.platform.settings.state_dir / model.adapter / "optimizer.safetensors").exists()
    assert not (place.run_dir(job_id) / "checkpoints").exists()
    assert job.result_file is not None
    table = (place.platform.files_dir / job.result_file).read_text().splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert [line.split(",")[0] for line in table[1:]] == [str(n) for n in range(1, STEPS + 1)]
    azure_table = (place.platform.files_dir / result_file_id(job_id, "azure")).read_text().splitlines()
    assert azure_table[0] == (
        "step,train_loss,train_mean_token_accuracy,valid_loss,valid_mean_token_accuracy,"
        "full_valid_loss,full_valid_mean_token_accuracy"
    )
    assert [line.split(",")[:3] for line in azure_table[1:]] == [line.split(",")[:3] for line in table[1:]]
    assert job.trained_tokens


def test_a_tuned_model_is_tuned_further(place: Place) -> None:
    first = place.submit()
    with working(place):
        place.wait_for(first, "succeeded", "failed")
        _, _, parent = place.models(first)
        second = place.submit(parent=parent.name)
        place.wait_for(second, "succeeded", "failed")
    assert place.job(second).status == "succeeded"
    losses = [first_loss(place, job_id) for job_id in (first, second)]
    assert losses[1] < losses[0]
    result = place.result(second)
    spec = TrainSpec.model_validate_json((place.run_dir(second) / "spec.json").read_bytes())
    assert spec.parent is not None
    assert spec.parent.sha256 == place.result(first).adapter_sha256 != result.adapter_sha256
    assert place.models(second)[-1].name.startswith("ft:test/tiny:org::")


def first_loss(place: Place, job_id: str) -> float:
    data = next(event.data for event in place.events(job_id) if event.data is not None)
    assert data["train_loss"] is not None
    return data["train_loss"]
