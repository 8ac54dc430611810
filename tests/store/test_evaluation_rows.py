"""Evaluations in the store: one under way at most, forward only, at an end with their job, and work for a worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tunewise.contracts.evaluations import Evaluation, EvaluationRequest
from tunewise.contracts.graders import ExactMatch
from tunewise.contracts.jobs import Job, JobRequest, JobStatus
from tunewise.store import evaluations, jobs
from tunewise.store.db import Database
from tunewise.store.migrate import upgrade


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    upgrade(database)
    yield database
    database.close()


def add_job(database: Database, number: int, status: JobStatus = "queued", *, evaluated: bool = True) -> str:
    request = JobRequest(model="m", base="m", training_file="file-1", seed=1)
    job = Job(id=f"ftjob-{number}", project="p", organization="o", request=request, status=status, created_at=5)
    with database.write() as session:
        jobs.add(session, job)
        assert not evaluated or evaluations.put(session, asked(job.id))
    return job.id


def asked(job_id: str) -> Evaluation:
    request = EvaluationRequest(test_file="file-2", graders=(ExactMatch(name="exact"),))
    return Evaluation(job_id=job_id, project="p", request=request, created_at=6)


def test_an_evaluation_goes_forward_only_and_is_replaced_once_it_has_ended(database: Database) -> None:
    job_id = add_job(database, 1)
    with database.write() as session:
        assert evaluations.move(session, job_id, "baselines_done", scores={})
        assert evaluations.move(session, job_id, "baselines_done", scores={}) is None
        assert not evaluations.put(session, asked(job_id)), "one is under way"
        assert evaluations.count_death(session, job_id)
        ended = evaluations.move(session, job_id, "succeeded", outcome="worth_it", headline="h")
        assert ended
        assert ended.finished_at
        assert evaluations.move(session, job_id, "failed") is None
        assert evaluations.count_death(session, job_id) is None
        assert evaluations.put(session, asked(job_id))
        found = evaluations.find(session, job_id)
    assert found == asked(job_id).model_copy(update={"created_at": 7}), "nothing of the earlier one is left"


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_an_evaluation_ends_with_a_job_that_leaves_no_model(database: Database, end: JobStatus) -> None:
    job_id = add_job(database, 1)
    with database.write() as session:
        jobs.transition(session, job_id, end)
        found = evaluations.get(session, "p", job_id)
        assert evaluations.get(session, "q", job_id) is None
    assert found
    assert found.status == "cancelled"


def test_a_job_that_has_succeeded_waits_for_a_worker_while_it_is_to_be_evaluated(database: Database) -> None:
    done, plain = add_job(database, 1, "succeeded"), add_job(database, 2, "succeeded", evaluated=False)
    queued = add_job(database, 3, evaluated=False)
    add_job(database, 4, "paused")
    with database.write() as session:
        assert [job.id for job in jobs.waiting(session, 9)] == [done, queued]
        assert [job.id for job in jobs.waiting(session, 1)] == [done]
        evaluations.move(session, done, "succeeded")
        assert [job.id for job in jobs.waiting(session, 9)] == [queued]
        assert set(evaluations.of_jobs(session, "p", [done, plain])) == {done}


def test_files_of_an_unfinished_evaluation_are_in_use(database: Database) -> None:
    job_id = add_job(database, 1, "succeeded")
    with database.write() as session:
        for file_id in ("file-1", "file-2"):
            using = jobs.using_file(session, "p", file_id)
            assert using
            assert using.id == job_id
        assert jobs.using_file(session, "q", "file-2") is None
        evaluations.move(session, job_id, "failed")
        assert jobs.using_file(session, "p", "file-2") is None
