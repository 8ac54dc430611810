"""Deployments as names: what one stands for, and which of them keep a model."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunewise.catalogue import DEFAULT_MODEL
from tunewise.contracts.jobs import Caller, Job, JobRequest, Permission, TunedModel
from tunewise.errors import RequestError
from tunewise.jobs import deployments, models
from tunewise.jobs.deployments import Wanted
from tunewise.jobs.hosting import find_model
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings, get_settings
from tunewise.store import jobs
from tunewise.store import models as kept

OWNER = Caller(organization="o", project="p", role="admin")
FRIEND = Caller(organization="o", project="q", role="admin")


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = open_platform(Settings(home=get_settings().home, state=tmp_path / "state"))
    yield platform
    platform.database.close()


def tuned(platform: Platform) -> TunedModel:
    """A tuned model of the owner's, granted to the friend."""
    request = JobRequest(model=DEFAULT_MODEL, base=DEFAULT_MODEL, training_file="f", seed=1)
    job = Job(id="ftjob-1", project="p", organization="o", request=request, status="succeeded", created_at=1)
    model = TunedModel(
        id="ftckpt_1",
        name=f"ft:{DEFAULT_MODEL}:o::1",
        azure_name=f"{DEFAULT_MODEL}.ft-1",
        project="p",
        organization="o",
        job_id=job.id,
        base=DEFAULT_MODEL,
        step=1,
        is_final=True,
        adapter="runs/ftjob-1/adapter",
        metrics={},
        created_at=1,
    )
    with platform.database.write() as session:
        jobs.add(session, job)
        kept.add(session, model)
        kept.grant(session, Permission(id="cp_1", model=model.name, project="q", created_at=1))
    return model


def deploy(platform: Platform, caller: Caller, name: str, model: str) -> None:
    wanted = Wanted(name, "s/g/a", model, model_format="OpenAI", model_version="1", sku="Standard", capacity=1)
    deployments.put(platform, caller, wanted)


def test_a_deployment_of_a_deployment_stands_for_the_same_model(platform: Platform) -> None:
    deploy(platform, OWNER, "first", DEFAULT_MODEL)
    deploy(platform, OWNER, "second", "first")
    assert find_model(platform, OWNER, "second").base == DEFAULT_MODEL


def test_anothers_deployment_keeps_a_model_for_as_long_as_it_is_granted(platform: Platform) -> None:
    model = tuned(platform)
    deploy(platform, FRIEND, "secret-plans", model.name)
    with pytest.raises(RequestError) as refused:
        models.delete(platform, OWNER, model.name)
    assert refused.value.code == "model_deployed"
    assert "secret-plans" not in refused.value.message
    models.revoke(platform, OWNER, model.name, "cp_1")
    models.delete(platform, OWNER, model.name)


def test_anothers_job_keeps_a_model_and_is_not_named(platform: Platform) -> None:
    model = tuned(platform)
    request = JobRequest(model=model.name, base=DEFAULT_MODEL, parent=model.name, training_file="f", seed=1)
    job = Job(id="ftjob-theirs", project="q", organization="o", request=request, status="running", created_at=1)
    with platform.database.write() as session:
        jobs.add(session, job)
    with pytest.raises(RequestError) as refused:
        models.delete(platform, OWNER, model.name)
    assert refused.value.code == "model_in_use"
    assert job.id not in refused.value.message


def test_a_state_directory_that_is_made_is_its_makers_alone(platform: Platform) -> None:
    assert stat.S_IMODE(platform.settings.state_dir.stat().st_mode) == 0o700


def test_an_alias_stands_for_a_base_model_or_a_tuned_one(platform: Platform) -> None:
    model = tuned(platform)
    aliases = {"small": DEFAULT_MODEL, "mine": model.name, "gone": "nothing"}
    known = platform._replace(settings=platform.settings.model_copy(update={"aliases": aliases}))
    assert find_model(known, OWNER, "small").base == DEFAULT_MODEL
    assert find_model(known, OWNER, "mine").tuned == model
    with pytest.raises(RequestError, match="'gone'"):
        find_model(known, OWNER, "gone")
