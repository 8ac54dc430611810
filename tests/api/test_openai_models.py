"""Models and checkpoint permissions through the real SDK, every answer validated strictly."""

from urllib.parse import quote

import openai
import pytest

from api.live import BASE, Live
from tunewise.contracts.jobs import Caller, Deployment, JobRequest
from tunewise.store import jobs, models

CALLER = Caller(organization="o", project="default", role="admin")


def test_base_and_tuned_models_are_listed_and_looked_up(client: openai.OpenAI, live: Live) -> None:
    tuned = live.model(live.job(status="succeeded"), is_final=True)
    others = live.model(live.job(project="other"), is_final=True)
    names = [model.id for model in client.models.list()]
    assert BASE in names
    assert tuned.name in names
    assert others.name not in names
    assert client.models.retrieve(tuned.name).owned_by == "o"
    assert client.models.retrieve(BASE).owned_by == "system"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve(others.name)
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("written", [str, lambda name: quote(name, safe="")], ids=["raw", "quoted"])
def test_a_tuned_model_is_deleted_with_its_weights_however_its_colons_are_written(
    live: Live, written: type[str]
) -> None:
    tuned = live.model(live.job(status="succeeded"), is_final=True)
    answer = live.http.delete(f"/v1/models/{written(tuned.name)}")
    assert answer.json() == {"id": tuned.name, "object": "model", "deleted": True}
    assert not (live.platform.settings.state_dir / tuned.adapter).exists()
    assert live.http.get(f"/v1/models/{tuned.name}").status_code == 404


def test_a_model_that_is_needed_is_not_deleted(client: openai.OpenAI, live: Live) -> None:
    deployed, parent = (live.model(live.job(status="succeeded"), is_final=True) for _ in range(2))
    child = live.job()
    with live.platform.database.write() as session:
        deployment = Deployment(name="d", scope="s", project="default", model=deployed.name, created_at=1, updated_at=1)
        models.put_deployment(session, deployment)
        request = JobRequest(model=parent.name, base=BASE, parent=parent.name, training_file="f", seed=1)
        jobs.add(session, child.model_copy(update={"id": "ftjob-child", "request": request}))
    for model, code in ((deployed, "model_deployed"), (parent, "model_in_use")):
        with pytest.raises(openai.BadRequestError) as refused:
            client.models.delete(model.name)
        assert refused.value.code == code
    with pytest.raises(openai.BadRequestError) as base:
        client.models.delete(BASE)
    assert base.value.code == "model_not_deletable"
    client.fine_tuning.jobs.cancel("ftjob-child")
    assert client.models.delete(parent.name).deleted


def test_a_checkpoints_weights_go_with_it_also_while_its_job_trains(client: openai.OpenAI, live: Live) -> None:
    checkpoint = live.model(live.job(status="running"))
    assert (live.platform.settings.state_dir / checkpoint.adapter).exists()
    assert client.models.delete(checkpoint.name).deleted
    assert not (live.platform.settings.state_dir / checkpoint.adapter).exists()


def test_a_checkpoint_is_shared_with_a_project_and_taken_back(client: openai.OpenAI, live: Live) -> None:
    checkpoint = live.model(live.job(status="succeeded"))
    permissions = client.fine_tuning.checkpoints.permissions
    granted = list(permissions.create(checkpoint.name, project_ids=["friend", "other"]))
    assert [kept.project_id for kept in granted] == ["friend", "other"]
    assert [kept.id for kept in permissions.create(checkpoint.name, project_ids=["friend"])] == [granted[0].id]
    assert [kept.project_id for kept in permissions.list(checkpoint.name)] == ["other", "friend"]
    assert [kept.id for kept in permissions.list(checkpoint.name, order="ascending", limit=1)] == [
        kept.id for kept in granted
    ]
    assert [kept.id for kept in permissions.list(checkpoint.name, project_id="friend")] == [granted[0].id]
    with live.client(project="friend") as friend:
        assert friend.models.retrieve(checkpoint.name).id == checkpoint.name
        with pytest.raises(openai.PermissionDeniedError) as refused:
            friend.models.delete(checkpoint.name)
        assert refused.value.code == "not_owner"
        assert permissions.delete(granted[0].id, fine_tuned_model_checkpoint=checkpoint.name).deleted
        with pytest.raises(openai.NotFoundError):
            friend.models.retrieve(checkpoint.name)
    with pytest.raises(openai.NotFoundError) as gone:
        permissions.delete(granted[0].id, fine_tuned_model_checkpoint=checkpoint.name)
    assert gone.value.code == "permission_not_found"
