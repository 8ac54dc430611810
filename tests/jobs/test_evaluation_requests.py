"""Asking for an evaluation: kept with its job or not at all, its files kept, and none but the caller's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.tuned import BASE, PROJECT, add_tuned, make_platform
from tunewise.contracts.evaluations import EvaluationRequest
from tunewise.contracts.fine_tuning import Method
from tunewise.contracts.jobs import Caller, StoredFile
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ConfigError, RequestError
from tunewise.jobs import evaluations, fine_tuning
from tunewise.jobs import files as stored
from tunewise.jobs.fine_tuning import Submission
from tunewise.jobs.platform import Platform
from tunewise.store import files
from tunewise.store.rows import new_id

OWNER = Caller(organization="o", project=PROJECT, role="member")
ADMIN = Caller(organization="o", project=PROJECT, role="admin")
STRANGER = Caller(organization="o", project="other", role="admin")
LABEL = {"name": "colour", "type": "label"}


@pytest.fixture
def platform(tmp_path: Path, tiny_model: BaseModelRef) -> Iterator[Platform]:
    platform = make_platform(tmp_path, tiny_model)
    yield platform
    platform.database.close()


def add_file(platform: Platform, project: str = PROJECT) -> str:
    file = StoredFile(
        id=new_id("file-"), project=project, filename="a", purpose="fine-tune", bytes=1, sha256="0", created_at=1
    )
    (platform.files_dir / file.id).write_bytes(b"x")
    with platform.database.write() as session:
        files.add(session, file)
    return file.id


def submission(platform: Platform) -> Submission:
    return Submission(
        model=BASE,
        training_file=add_file(platform),
        validation_file=None,
        method=Method(),
        seed=1,
        suffix=None,
        metadata=None,
        integrations=None,
    )


def asked(test_file: str, **changes: object) -> EvaluationRequest:
    return EvaluationRequest.model_validate({"test_file": test_file, "graders": [LABEL]} | changes)


def test_every_file_of_a_request_is_named_by_its_field() -> None:
    request = asked(
        "file-1",
        test_items="file-2",
        graders=[
            {**LABEL, "labels": "file-3", "primary": True},
            {"name": "s", "type": "sql_execution", "database": "d"},
        ],
        arms={"retrieval": {"documents": "file-4"}},
    )
    assert request.files == {
        "test_file": "file-1",
        "test_items": "file-2",
        "graders.0.labels": "file-3",
        "graders.1.database": "d",
        "arms.retrieval.documents": "file-4",
    }
    assert asked("file-1", graders=[{**LABEL, "labels": ["a"]}]).files == {"test_file": "file-1"}
    with pytest.raises(ValidationError):
        asked("file-1", data={"test": "a"})


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"test_file": "file-0"}, "invalid_file", "test_file"),
        ({"test_items": "../jobs"}, "invalid_file", "test_items"),
        ({"graders": [{"name": "q", "type": "sql_execution", "database": "/etc/passwd"}]}, "invalid_file", "graders.0"),
        ({"graders": [{**LABEL, "labels": "a\0b"}]}, "invalid_file", "graders.0.labels"),
        ({"arms": {"retrieval": {"documents": "x"}}}, "invalid_file", "arms.retrieval.documents"),
        ({"graders": [LABEL, LABEL]}, "duplicate_grader", "graders"),
        ({"graders": [LABEL, {**LABEL, "name": "b"}]}, "primary_grader", "graders"),
        ({"arms": {"prompt": [{"name": "tuned"}]}}, "duplicate_arm", "arms"),
        (
            {
                "arms": {
                    "prompt": [
                        {
                            "endpoint": {
                                "base_url": "http://x.test",
                                "model": "m",
                                "api_key_env": "HOME",
                                "price_per_million_prompt_tokens": 0,
                                "price_per_million_completion_tokens": 0,
                            }
                        }
                    ]
                }
            },
            "admin_required",
            None,
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_and_no_job_is_kept(
    platform: Platform, changes: dict[str, Any], code: str, param: str | None
) -> None:
    request = asked(add_file(platform)).model_copy()
    request = asked(**({"test_file": request.test_file} | changes))
    with pytest.raises((RequestError, ConfigError)) as refused:
        evaluations.submit_run(platform, OWNER, submission(platform), request)
    assert refused.value.code == code
    assert param is None or (refused.value.param or "").startswith(param)
    assert fine_tuning.list_jobs(platform, OWNER, after=None, limit=9, metadata=None).items == []


def test_another_projects_file_is_not_there(platform: Platform) -> None:
    with pytest.raises(RequestError, match="there is no file"):
        evaluations.submit_run(platform, OWNER, submission(platform), asked(add_file(platform, "other")))


def test_a_run_is_a_job_with_its_evaluation_and_ends_with_it(platform: Platform) -> None:
    request = asked(add_file(platform))
    job = evaluations.submit_run(platform, OWNER, submission(platform), request)
    plain = evaluations.submit_run(platform, OWNER, submission(platform), None)
    found = evaluations.retrieve(platform, OWNER, job.id)
    assert (found.status, found.request) == ("pending", request)
    assert evaluations.of_jobs(platform, OWNER, [job.id, plain.id]) == {job.id: found}
    assert evaluations.of_jobs(platform, STRANGER, [job.id]) == {}
    for caller, job_id, code in (
        (OWNER, plain.id, "evaluation_not_found"),
        (STRANGER, job.id, "fine_tune_not_found"),
        (OWNER, "ftjob-0", "fine_tune_not_found"),
    ):
        for use in (evaluations.retrieve, evaluations.report, evaluations.report_page, evaluations.progress):
            with pytest.raises(RequestError) as refused:
                use(platform, caller, job_id)
            assert refused.value.code == code
    with pytest.raises(RequestError, match="its evaluation is pending; wait"):
        evaluations.report(platform, OWNER, job.id)
    progress = evaluations.progress(platform, OWNER, job.id)
    assert (progress.stage, {stage.state for stage in progress.stages}) == ("check", {"waiting"})

    fine_tuning.cancel(platform, OWNER, job.id)
    ended = evaluations.retrieve(platform, OWNER, job.id)
    assert ended.status == "cancelled"
    assert ended.finished_at is not None


def test_the_files_of_an_evaluation_stay_while_it_needs_them(platform: Platform) -> None:
    request = asked(add_file(platform), test_items=add_file(platform))
    job = evaluations.submit_run(platform, OWNER, submission(platform), request)
    for file_id in (job.request.training_file, *request.files.values()):
        with pytest.raises(RequestError) as refused:
            stored.delete(platform, OWNER, file_id)
        assert refused.value.code == "file_in_use"
    fine_tuning.cancel(platform, OWNER, job.id)
    for file_id in request.files.values():
        stored.delete(platform, OWNER, file_id)


def test_only_a_job_that_has_succeeded_is_evaluated_afterwards_and_once_at_a_time(
    platform: Platform, tiny_model: BaseModelRef
) -> None:
    model = add_tuned(platform, tiny_model)
    request = asked(add_file(platform))
    with pytest.raises(RequestError, match=r"The run directory .* is gone"):
        evaluations.attach(platform, OWNER, model.job_id, request)
    (platform.runs_dir / model.job_id / "spec.json").touch()
    with pytest.raises(RequestError, match="training_file: there is no file"):
        evaluations.attach(platform, OWNER, model.job_id, request)
    waiting = fine_tuning.submit(platform, OWNER, submission(platform))
    with pytest.raises(RequestError, match="only one that has succeeded") as refused:
        evaluations.attach(platform, OWNER, waiting.id, request)
    assert refused.value.code == "invalid_state"
