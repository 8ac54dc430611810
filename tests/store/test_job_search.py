"""The search for jobs finds exactly those that have every word, whatever characters stand in it, on both databases."""

from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tunewise.contracts.jobs import Job, JobRequest, JobStatus
from tunewise.store import jobs
from tunewise.store.db import Database
from tunewise.store.rows import new_id

# What means something in JSON, in SQL or in LIKE, and letters of which the databases know both cases.
TRICKY = "\"\\.$[]{}%_'#/:?*@aAbB0日🙂"
WORDS = st.text(st.sampled_from(TRICKY), min_size=1, max_size=4)
NUMBERS = count()


def make(
    database: Database, project: str, suffix: str | None, *, model: str = "m", status: JobStatus = "queued"
) -> str:
    request = JobRequest(model=model, base="m", training_file="file-1", seed=1, suffix=suffix)
    job = Job(id=new_id("ftjob-"), project=project, organization="o", request=request, status=status, created_at=5)
    with database.write() as session:
        jobs.add(session, job)
    return job.id


def found(database: Database, project: str, *words: str, statuses: tuple[JobStatus, ...] = ()) -> list[str]:
    with database.read() as session:
        page = jobs.searched(session, project, words=words, statuses=statuses, after=None, limit=100)
    assert page is not None
    return [job.id for job in page.items]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.none() | WORDS, min_size=1, max_size=5), asked=st.lists(WORDS, max_size=2))
@example(names=["100%", "100x", "a_b", "aXb", "a\\b"], asked=["%"])
@example(names=["100%", "100x", "a_b", "aXb", "a\\b"], asked=["_"])
@example(names=['say "a"', "日a"], asked=['"A"'])
def test_exactly_the_jobs_that_have_every_word_are_found(
    database: Database, names: list[str | None], asked: list[str]
) -> None:
    project = f"p{next(NUMBERS)}"
    made = {make(database, project, name, model="Base-9"): name or "" for name in names}
    having = [
        job_id
        for job_id, name in made.items()
        if all(word.lower() in text for word in asked for text in [f"{name}\n{job_id}\nbase-9".lower()])
    ]
    assert found(database, project, *asked) == having[::-1]


def test_models_ids_and_tuned_models_are_looked_through_and_other_projects_are_not(database: Database) -> None:
    job_id = make(database, "p", "colours", model="SmolLM2", status="running")
    other = make(database, "q", "colours", model="SmolLM2")
    with database.write() as session:
        assert jobs.transition(session, job_id, "succeeded", fine_tuned_model="ft:base:org:sounds:0a")
    for words in (("smol", "COLOUR"), (job_id[6:],), ("org:sounds",)):
        assert found(database, "p", *words) == [job_id]
    assert found(database, "p", "colours", "missing") == []
    assert found(database, "q") == [other]


@pytest.mark.parametrize(("statuses", "places"), [((), [3, 2, 1, 0]), (("queued",), [3, 0]), (("paused",), [])])
def test_a_status_narrows_the_list(database: Database, statuses: tuple[JobStatus, ...], places: list[int]) -> None:
    kept: tuple[JobStatus, ...] = ("queued", "running", "failed", "queued")
    made = [make(database, "p", "x", status=status) for status in kept]
    assert found(database, "p", statuses=statuses) == [made[place] for place in places]


def test_the_next_page_is_there_although_its_edge_has_left_the_list(database: Database) -> None:
    made = [make(database, "p", "x") for _ in range(3)]
    with database.write() as session:
        assert jobs.transition(session, made[1], "cancelled")
    with database.read() as session:
        page = jobs.searched(session, "p", words=(), statuses=("queued",), after=made[1], limit=9)
        assert page is not None
        assert ([job.id for job in page.items], page.has_more) == ([made[0]], False)
        assert jobs.searched(session, "other", words=(), statuses=(), after=made[1], limit=9) is None
