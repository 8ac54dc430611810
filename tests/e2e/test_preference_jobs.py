"""A preference job from its files to a chat with the tuned model: real SDK, real worker, trainer and model server.

The model is tiny and random, so that what it prefers is its training's doing alone.
"""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from api.live import Live, live
from jobs.nursery import Nursery
from jobs.surviving import BASE, PROJECT, Place, working
from train.making import row
from tunewise.contracts.run import REWARD_METRICS

HYPERPARAMETERS: Any = {"n_epochs": 2, "batch_size": 8, "beta": 0.2, "learning_rate_multiplier": 30}


@pytest.fixture
def server(place: Place, nursery: Nursery) -> Iterator[Live]:
    with live(place.platform, nursery=nursery) as running:
        yield running


@pytest.fixture
def client(server: Live) -> Iterator[openai.OpenAI]:
    with server.client(project=PROJECT) as client:
        yield client


def pair(number: int) -> str:
    return json.dumps(
        {
            "input": {"messages": [{"role": "user", "content": f"Is {number} a good number?"}]},
            "preferred_output": [{"role": "assistant", "content": f"Yes, {number} is."}],
            "non_preferred_output": [{"role": "assistant", "content": f"No, {number} never was."}],
        }
    )


def upload(client: openai.OpenAI, rows: list[str]) -> str:
    data = "".join(f"{line}\n" for line in rows).encode()
    return client.files.create(file=("pairs.jsonl", data), purpose="fine-tune").id


def test_a_preference_job_ends_in_a_model_that_answers_and_prefers(place: Place, client: openai.OpenAI) -> None:
    made = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=upload(client, [pair(number) for number in range(32)]),
        validation_file=upload(client, [pair(number) for number in range(100, 112)]),
        method={"type": "dpo", "dpo": {"hyperparameters": HYPERPARAMETERS}},
        suffix="kinder",
        seed=7,
    )
    with working(place):
        assert place.wait_for(made.id, "succeeded", "failed").status == "succeeded", place.story()
    job = client.fine_tuning.jobs.retrieve(made.id)
    assert job.hyperparameters.model_dump() == HYPERPARAMETERS
    assert job.fine_tuned_model
    steps = [e.data for e in client.fine_tuning.jobs.list_events(made.id, limit=100) if e.type == "metrics"]
    assert all(isinstance(step, dict) for step in steps)
    (first, *_, last) = sorted(json.loads(json.dumps(steps)), key=lambda step: step["step"])
    assert first["train_reward_margin"] == pytest.approx(0, abs=1e-5), "the run begins at its reference"
    assert last["train_reward_margin"] > 0
    assert last["full_valid_reward_accuracy"] == 1, "held-out pairs of the same kind are preferred too"
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(made.id).data
    told = checkpoint.metrics.model_dump()
    assert checkpoint.step_number == 4
    assert told["full_valid_reward_margin"] > 0
    table = list(csv.DictReader(io.StringIO(client.files.content(job.result_files[0]).text)))
    assert [line["step"] for line in table] == [str(step) for step in range(1, 9)]
    assert list(table[0])[-len(REWARD_METRICS) :] == list(REWARD_METRICS)
    assert float(table[-1]["full_valid_reward_accuracy"]) == 1
    said = client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "Is 7 a good number?"}], max_tokens=4
    )
    assert said.model == job.fine_tuned_model
    assert said.usage
    assert said.usage.completion_tokens > 0


def test_a_job_whose_rows_its_method_does_not_train_on_fails_before_it_is_trained(
    place: Place, client: openai.OpenAI
) -> None:
    chats = upload(client, [row(number) for number in range(12)])
    made = client.fine_tuning.jobs.create(model=BASE, training_file=chats, method={"type": "dpo"})
    with working(place):
        place.wait_for(made.id, "failed")
    error = client.fine_tuning.jobs.retrieve(made.id).error
    assert error
    assert (error.code, error.param) == ("invalid_file_format", "training_file")
    assert "the method dpo trains on preference pairs; ask for the method supervised" in error.message
    assert not (place.run_dir(made.id) / "events.jsonl").exists()
