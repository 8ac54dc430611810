"""Every call of the real SDKs that the server answers, in both dialects, each answer validated strictly.

The one that no server can answer so, a streamed text completion, stands in test_chat.py.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AzureOpenAI, OpenAI

from api.live import ROW, Live, live
from jobs.nursery import Nursery
from jobs.tuned import BASE, add_tuned, make_platform
from tunewise.contracts.run import BaseModelRef
from tunewise.store import jobs

STRICT: dict[str, Any] = {"api_key": "any", "max_retries": 0, "timeout": 120, "_strict_response_validation": True}
ASKED: dict[str, Any] = {"model": BASE, "max_tokens": 4, "temperature": 0}
MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server(tiny_model: BaseModelRef, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(make_platform(tmp_path_factory.mktemp("calls"), tiny_model), nursery=nursery) as running:
        yield running


@pytest.fixture(params=["openai", "azure", "azure v1"])
def client(server: Live, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    match request.param:
        case "openai":
            opened = OpenAI(base_url=f"{server.url}/v1", **STRICT)
        case "azure":
            opened = AzureOpenAI(azure_endpoint=server.url, api_version="2024-10-21", **STRICT)
        case _:
            opened = OpenAI(base_url=f"{server.url}/openai/v1", default_query={"api-version": "preview"}, **STRICT)
    with opened as client:
        yield client


def test_files_and_uploads(client: OpenAI) -> None:
    made = client.files.create(
        file=("a.jsonl", ROW * 12), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert client.files.retrieve(made.id).id == made.id
    assert made.id in [file.id for file in client.files.list(limit=1, purpose="fine-tune", order="desc")]
    assert client.files.content(made.id).read() == ROW * 12
    assert client.files.wait_for_processing(made.id).status == "processed"
    assert client.files.delete(made.id).deleted
    upload = client.uploads.create(filename="a", bytes=2, mime_type="text/plain", purpose="user_data")
    part = client.uploads.parts.create(upload.id, data=b"ab")
    done = client.uploads.complete(upload.id, part_ids=[part.id], md5=hashlib.md5(b"ab").hexdigest())
    assert done.file
    other = client.uploads.create(filename="a", bytes=2, mime_type="text/plain", purpose="user_data")
    assert client.uploads.cancel(other.id).status == "cancelled"
    chunked = client.uploads.upload_file_chunked(
        file=ROW, filename="b", bytes=len(ROW), mime_type="text/plain", purpose="user_data", part_size=50
    )
    assert chunked.status == "completed"


METHODS: list[Any] = [
    {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
    {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.2}}},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["type"])
def test_fine_tuning_jobs(server: Live, client: OpenAI, method: Any) -> None:  # noqa: ANN401  # a TypedDict of the SDK
    file = client.files.create(file=("a.jsonl", ROW * 12), purpose="fine-tune").id
    calls = client.fine_tuning.jobs
    made = calls.create(
        model=BASE,
        training_file=file,
        validation_file=file,
        seed=1,
        suffix="owl",
        metadata={"a": "b"},
        method=method,
    )
    assert calls.retrieve(made.id).id == made.id
    assert made.method
    assert made.method.type == method["type"]
    assert [job.id for job in calls.list(limit=1, metadata={"a": "b"}).data] == [made.id]
    assert calls.list_events(made.id, limit=1).data
    with server.platform.database.write() as session:
        jobs.transition(session, made.id, "queued")
    for done in (calls.pause(made.id), calls.resume(made.id)):
        assert done.id == made.id
    assert calls.cancel(made.id).status == "cancelled"


def test_models_and_checkpoints(server: Live, client: OpenAI, tiny_model: BaseModelRef) -> None:
    tuned = add_tuned(server.platform, tiny_model)
    assert tuned.name in [model.id for model in client.models.list()]
    for name in (tuned.name, tuned.azure_name, BASE):
        assert client.models.retrieve(name).id == name
    listed = client.fine_tuning.jobs.checkpoints.list(tuned.job_id, limit=1)
    is_azure = "/openai" in str(client.base_url)
    assert len(listed.data) == int(is_azure)  # Azure counts the final model among them
    if not is_azure:
        permissions = client.fine_tuning.checkpoints.permissions
        granted = list(permissions.create(tuned.name, project_ids=["friend"]))
        assert [one.id for one in permissions.list(tuned.name, limit=1)] == [granted[0].id]
        assert permissions.delete(granted[0].id, fine_tuned_model_checkpoint=tuned.name).deleted
    assert client.models.delete(tuned.name).deleted


def test_completions(client: OpenAI) -> None:
    said = client.chat.completions.create(messages=MESSAGES, **ASKED, logprobs=True, top_logprobs=1)
    chunks = client.chat.completions.create(
        messages=MESSAGES, **ASKED, stream=True, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        said.choices[0].message.content
    )
    assert client.completions.create(prompt="Hello", **ASKED, logprobs=1).usage
    asked: dict[str, Any] = {"model": BASE, "max_output_tokens": 4, "temperature": 0, "input": "Hello"}
    made = client.responses.create(**asked)
    told = list(client.responses.create(**asked, stream=True))
    assert told[-1].type == "response.incomplete"
    assert told[-1].response.output_text == made.output_text
