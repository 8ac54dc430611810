"""Azure's dialect, with the real AzureOpenAI client in strict mode and the real resource manager's SDK."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.pipeline.policies import AzureKeyCredentialPolicy
from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient
from azure.mgmt.cognitiveservices.models import Deployment, DeploymentModel, DeploymentProperties, Sku
from openai import AzureOpenAI, OpenAI

from api.live import Live, live
from jobs.nursery import Nursery
from jobs.tuned import BASE, add_tuned, make_platform
from tunewise.contracts.jobs import TunedModel
from tunewise.contracts.run import BaseModelRef, RunEvent, StepMetrics
from tunewise.jobs.names import azure_model_name
from tunewise.store import events, jobs

VERSION = "2024-10-21"
GROUP, ACCOUNT = "group", "account"
MESSAGES: list[Any] = [{"role": "user", "content": "Who wrote Hamlet?"}]


@pytest.fixture(scope="module")
def server(tiny_model: BaseModelRef, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(make_platform(tmp_path_factory.mktemp("azure"), tiny_model), nursery=nursery) as running:
        yield running


@pytest.fixture(scope="module")
def tuned(server: Live, tiny_model: BaseModelRef) -> TunedModel:
    return add_tuned(server.platform, tiny_model)


@pytest.fixture
def client(server: Live) -> Iterator[AzureOpenAI]:
    with AzureOpenAI(
        azure_endpoint=server.url,
        api_key="placeholder",
        api_version=VERSION,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
def manager(server: Live) -> CognitiveServicesManagementClient:
    key = AzureKeyCredential("placeholder")
    return CognitiveServicesManagementClient(
        credential=key,  # type: ignore[arg-type]
        subscription_id="sub",
        base_url=server.url,
        authentication_policy=AzureKeyCredentialPolicy(key, "Authorization", prefix="Bearer"),
        polling_interval=0.2,
    )


def wanted(model: str) -> Deployment:
    described = DeploymentModel(format="OpenAI", name=model, version="1")
    return Deployment(sku=Sku(name="Standard", capacity=1), properties=DeploymentProperties(model=described))


def upload(client: AzureOpenAI | OpenAI, rows: int = 10) -> str:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    content = "\ufeff" + "".join(json.dumps(row) + "\n" for _ in range(rows))
    return client.files.create(file=("training_set.jsonl", content.encode()), purpose="fine-tune").id


def train_in_the_store(server: Live, job_id: str, steps: int) -> None:
    """What a worker would tell of a job."""
    with server.platform.database.write() as session:
        jobs.transition(session, job_id, "queued")
        jobs.transition(session, job_id, "running")
        metrics = [
            StepMetrics(step=n, total_steps=steps, train_loss=1 / n, train_mean_token_accuracy=0.5, tokens=n, seconds=n)
            for n in range(1, steps + 1)
        ]
        events.copy(
            session,
            job_id,
            [
                RunEvent(seq=one.step, created_at=9, level="info", type="metrics", message=f"Step {one.step}", data=one)
                for one in metrics
            ],
        )


def test_a_job_is_made_watched_paused_and_cancelled_in_azures_words(server: Live, client: AzureOpenAI) -> None:
    file_id = upload(client)
    made = client.fine_tuning.jobs.create(training_file=file_id, model=BASE, seed=105, suffix="owl")
    assert (made.status, made.seed, made.organization_id) == ("queued", 105, "tunewise")
    assert made.hyperparameters.model_dump() == {"n_epochs": -1, "batch_size": -1, "learning_rate_multiplier": 1}
    assert made.model_extra
    assert made.model_extra["suffix"] == "owl"
    train_in_the_store(server, made.id, steps=25)
    told = client.fine_tuning.jobs.list_events(made.id, limit=10)
    assert [event.message for event in told.data] == [
        "Step 20: training loss=0.05",
        "Step 10: training loss=0.1",
        "Job enqueued. Waiting for jobs ahead to complete.",
    ]
    assert [event.type for event in told.data] == ["metrics", "metrics", "message"]
    assert told.data[2].data is None
    paused = client.fine_tuning.jobs.pause(made.id)
    assert paused.model_extra
    assert (paused.status, paused.model_extra["paused"]) == ("queued", True)
    assert client.fine_tuning.jobs.resume(made.id).status == "queued"
    assert client.fine_tuning.jobs.cancel(made.id).status == "cancelled"
    assert client.fine_tuning.jobs.list(limit=1).data[0].id == made.id


def test_minus_one_is_auto_and_a_training_type_is_told_again(server: Live, client: AzureOpenAI) -> None:
    file_id = upload(client)
    made = client.fine_tuning.jobs.create(
        training_file=file_id,
        model=BASE,
        hyperparameters={"n_epochs": -1, "batch_size": 4, "learning_rate_multiplier": 0.1},
        extra_body={"trainingType": 1},
    )
    assert made.hyperparameters.model_dump() == {"n_epochs": -1, "batch_size": 4, "learning_rate_multiplier": 0.1}
    assert made.model_extra
    assert made.model_extra["trainingType"] == "1"
    with OpenAI(base_url=f"{server.url}/v1", api_key="k", _strict_response_validation=True) as other:
        same = other.fine_tuning.jobs.retrieve(made.id)
    assert same.hyperparameters.n_epochs == "auto"
    assert same.status == "validating_files"


def test_of_a_preference_job_minus_one_is_auto_for_beta_too(server: Live, client: AzureOpenAI) -> None:
    file_id = upload(client)
    asked: Any = {"n_epochs": -1, "batch_size": 4, "beta": -1}
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": asked}}
    made = client.fine_tuning.jobs.create(training_file=file_id, model=BASE, method=method)
    numbers = {"n_epochs": -1, "batch_size": 4, "learning_rate_multiplier": 1, "beta": -1}
    assert made.hyperparameters.model_dump() == numbers
    assert made.method
    assert made.method.model_dump(exclude_unset=True) == {
        "type": "dpo",
        "dpo": {"hyperparameters": numbers, "loss": "sigmoid"},
    }
    resolved = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0, "beta": 0.1}
    with server.platform.database.write() as session:
        jobs.transition(session, made.id, "queued", hyperparameters=resolved)
    assert client.fine_tuning.jobs.retrieve(made.id).hyperparameters.model_dump() == resolved


def test_checkpoints_have_azures_ids_and_names_and_the_final_model_is_the_newest(
    client: AzureOpenAI, tuned: TunedModel
) -> None:
    listed = client.fine_tuning.jobs.checkpoints.list(tuned.job_id)
    newest = listed.data[0]
    assert newest.id == "ftchkpt-" + tuned.id.removeprefix("ftckpt_")
    assert newest.fine_tuned_model_checkpoint == tuned.azure_name
    after = client.fine_tuning.jobs.checkpoints.list(tuned.job_id, after=newest.id)
    assert (after.data, after.has_more) == ([], False)


def test_service_statuses_are_sent_where_they_are_asked_for(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    platform = make_platform(tmp_path, tiny_model, service_statuses=True)
    with live(platform) as server, AzureOpenAI(azure_endpoint=server.url, api_key="k", api_version=VERSION) as client:
        made = client.fine_tuning.jobs.create(training_file=upload(client), model=BASE)
        assert str(made.status) == "pending"
        train_in_the_store(server, made.id, steps=1)
        assert str(client.fine_tuning.jobs.pause(made.id).status) == "paused"


def test_a_deployment_is_hosted_answers_by_its_name_and_keeps_its_model(
    client: AzureOpenAI, manager: CognitiveServicesManagementClient, server: Live, tuned: TunedModel
) -> None:
    poller = manager.deployments.begin_create_or_update(GROUP, ACCOUNT, "owl", wanted(tuned.azure_name))
    made = poller.result(timeout=60)
    assert made.properties
    assert (made.name, made.properties.provisioning_state) == ("owl", "Succeeded")
    assert made.id == (
        "/subscriptions/sub/resourceGroups/group/providers/Microsoft.CognitiveServices/accounts/account/deployments/owl"
    )
    assert tuned.name in server.relay.hosting.servers()[BASE].adapters
    said = client.chat.completions.create(model="owl", messages=MESSAGES, max_tokens=5, temperature=0)
    with OpenAI(base_url=f"{server.url}/openai/v1", api_key="k", _strict_response_validation=True) as dateless:
        again = dateless.chat.completions.create(model="owl", messages=MESSAGES, max_tokens=5, temperature=0)
    assert said.choices[0].message.content == again.choices[0].message.content
    assert [one.name for one in manager.deployments.list(GROUP, ACCOUNT)] == ["owl"]
    with pytest.raises(openai.BadRequestError, match="owl"):
        client.models.delete(tuned.azure_name)
    manager.deployments.begin_delete(GROUP, ACCOUNT, "owl").result(timeout=60)
    with pytest.raises(ResourceNotFoundError):
        manager.deployments.get(GROUP, ACCOUNT, "owl")
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="owl", messages=MESSAGES)
    assert refused.value.code == "DeploymentNotFound"


def test_a_deployment_whose_model_cannot_be_hosted_fails_and_says_so(
    manager: CognitiveServicesManagementClient, server: Live, tiny_model: BaseModelRef
) -> None:
    broken = add_tuned(server.platform, tiny_model, seed=2)
    for file in (server.platform.settings.state_dir / broken.adapter).iterdir():
        file.unlink()
    with pytest.raises(HttpResponseError):
        manager.deployments.begin_create_or_update(GROUP, ACCOUNT, "broken", wanted(broken.name)).result(timeout=60)
    found = manager.deployments.get(GROUP, ACCOUNT, "broken")
    assert found.properties
    assert found.properties.provisioning_state == "Failed"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/openai/files", None, 400, "missing_api_version"),
        ("GET", f"/openai/files?api-version={VERSION}", None, 200, None),
        ("GET", "/openai/v1/files", None, 200, None),
        ("POST", f"/openai/files/import?api-version={VERSION}", {"content_url": "x"}, 400, "unsupported_operation"),
        ("GET", f"/openai/fine_tuning/jobs/ftjob-x?api-version={VERSION}", None, 404, "fine_tune_not_found"),
        ("POST", "/openai/v1/fine_tuning/jobs", {"model": "m", "training_file": "f", "x": 1}, 400, "unknown_parameter"),
    ],
)
def test_azure_refusals(server: Live, method: str, path: str, body: Any, status: int, code: str | None) -> None:  # noqa: ANN401
    answer = httpx.request(method, server.url + path, json=body, headers={"api-key": "k"})
    assert answer.status_code == status
    assert code is None or answer.json()["error"]["code"] == code


def test_the_name_of_a_tuned_model_is_known_from_the_job(server: Live, tuned: TunedModel) -> None:
    with server.platform.database.read() as session:
        job = jobs.find(session, tuned.job_id)
    assert job
    assert azure_model_name(job) == f"{BASE}.ft-{job.id.removeprefix('ftjob-')}"
