"""The store: what is listed in which order, who may move a job, and that nothing is told twice."""

from threading import Barrier, Thread

import pytest
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError

from tunewise.contracts.jobs import Job, JobRequest, JobStatus
from tunewise.contracts.run import RunEvent, StepMetrics
from tunewise.errors import StoreError
from tunewise.store import events, jobs
from tunewise.store.db import Database
from tunewise.store.migrate import NEWEST, revision, upgrade
from tunewise.store.rows import new_id
from tunewise.store.tables import Table


def make_job(database: Database, *, project: str = "p", metadata: dict[str, str] | None = None) -> Job:
    request = JobRequest(model="m", base="m", training_file="file-1", seed=1, metadata=metadata)
    job = Job(
        id=new_id("ftjob-"), project=project, organization="o", request=request, status="validating_files", created_at=5
    )
    with database.write() as session:
        jobs.add(session, job)
    return job


def test_migrations_make_the_tables_that_the_code_declares(database: Database) -> None:
    with database.read() as session:
        found = inspect(session.connection())
        assert revision(session.connection()) == NEWEST
        assert set(found.get_table_names()) == {*Table.metadata.tables, "alembic_version"}
        for name, table in Table.metadata.tables.items():
            assert {column["name"] for column in found.get_columns(name)} == set(table.columns.keys())
            # PostgreSQL lists what stands behind a unique constraint as well.
            made = {index["name"] for index in found.get_indexes(name) if not index.get("duplicates_constraint")}
            assert made == {index.name for index in table.indexes}


def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="9999"):
        upgrade(database)


def test_pages_follow_the_order_of_writing_and_know_whether_there_is_more(database: Database) -> None:
    ids = [make_job(database).id for _ in range(5)]
    make_job(database, project="other")
    with database.read() as session:
        first = jobs.listed(session, "p", after=None, limit=2)
        assert first
        assert ([job.id for job in first.items], first.has_more) == ([ids[4], ids[3]], True)
        last = jobs.listed(session, "p", after=ids[2], limit=2)
        assert last
        assert ([job.id for job in last.items], last.has_more) == ([ids[1], ids[0]], False)
        assert jobs.listed(session, "other", after=ids[2], limit=2) is None


def test_jobs_are_filtered_by_metadata(database: Database) -> None:
    plain = make_job(database)
    tagged = make_job(database, metadata={"team": "a", "x y": "", "équipe": "bleu"})
    with database.read() as session:
        for metadata in ({"team": "a"}, {"x y": ""}, {"équipe": "bleu"}, {"team": "a", "x y": ""}):
            found = jobs.listed(session, "p", after=None, limit=9, metadata=metadata)
            assert found
            assert [job.id for job in found.items] == [tagged.id]
        none = jobs.listed(session, "p", after=None, limit=9, metadata={"team": "b"})
        assert none
        assert none.items == []
        without = jobs.without_metadata(session, "p", after=None, limit=9)
        assert without
        assert [job.id for job in without.items] == [plain.id]


def test_an_error_of_the_database_tells_neither_what_was_sent_nor_the_password(database: Database) -> None:
    job = make_job(database, metadata={"diagnosis": "secret"})
    with pytest.raises(IntegrityError) as twice, database.write() as session:
        jobs.add(session, job)
    assert "secret" not in str(twice.value)
    with pytest.raises(StoreError) as unusable:
        Database("nonsense://user:secret@host/db")
    assert "secret" not in unusable.value.message


def test_of_two_racing_moves_one_wins(database: Database) -> None:
    job = make_job(database)
    with database.write() as session:
        jobs.transition(session, job.id, "queued")
        jobs.transition(session, job.id, "running")
    barrier, moved = Barrier(3), list[tuple[JobStatus, bool]]()

    def move(to: JobStatus) -> None:
        barrier.wait()
        with database.write() as session:
            moved.append((to, jobs.transition(session, job.id, to) is not None))

    threads = [Thread(target=move, args=(to,)) for to in ("succeeded", "cancelled", "paused")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [to for to, did in moved if did]
    with database.read() as session:
        after = jobs.get(session, "p", job.id)
    assert after
    # "paused" may come before "cancelled": that is a legal way, and not a race lost.
    assert won in (["succeeded"], ["cancelled"], ["paused"], ["paused", "cancelled"])
    assert after.status == won[-1]


def test_a_job_is_claimed_by_one_worker_and_taken_over_only_as_it_was_seen(database: Database) -> None:
    job = make_job(database)
    with database.write() as session:
        first = jobs.claim(session, job, "w1")
        assert first
        assert jobs.claim(session, job, "w2") is None
        assert jobs.unowned(session) == []
        seen = jobs.owned(session)[0]
        jobs.heartbeat(session, "w1")
        assert jobs.claim(session, seen, "w2") is None
        assert jobs.claim(session, jobs.owned(session)[0], "w2")
        assert jobs.heartbeat(session, "w1") == {}
        assert jobs.change(session, job.id, owner="w1", attempts=1) is None


def test_events_are_numbered_without_gaps_and_a_repeated_journal_is_kept_once(database: Database) -> None:
    job = make_job(database)
    journal = [RunEvent(seq=n, created_at=n, level="info", type="message", message=f"m{n}") for n in range(1, 5)]
    with database.write() as session:
        events.tell(session, job.id, "first")
        assert len(events.copy(session, job.id, journal[:3])) == 3
        events.tell(session, job.id, "between")
        assert events.copy(session, job.id, journal) == journal[3:]
        page = events.listed(session, job.id, after=None, limit=100)
    assert page
    assert [event.seq for event in page.items] == [6, 5, 4, 3, 2, 1]
    assert [event.message for event in reversed(page.items)] == ["first", "m1", "m2", "m3", "between", "m4"]


def test_azure_hears_every_tenth_step_and_its_own_words(database: Database) -> None:
    job = make_job(database)
    steps = [
        StepMetrics(step=n, total_steps=25, train_loss=0.5, train_mean_token_accuracy=0.9, tokens=n, seconds=n)
        for n in range(1, 26)
    ]
    journal = [
        RunEvent(seq=step.step, created_at=1, level="info", type="metrics", message=f"Step {step.step}/25", data=step)
        for step in steps
    ]
    with database.write() as session:
        events.tell(session, job.id, "created", azure="Job enqueued.")
        events.copy(session, job.id, journal)
        events.tell_azure(session, job.id, "Postprocessing started.")
        openai = events.listed(session, job.id, after=None, limit=100)
        azure = events.listed_for_azure(session, job.id, after=None, limit=100)
        rest = events.listed_for_azure(session, job.id, after=azure.items[1].id, limit=100) if azure else None
    assert openai
    assert azure
    assert rest
    assert len(openai.items) == 26
    told = [event.azure_message for event in azure.items]
    assert told[::-1] == [
        "Job enqueued.",
        "Step 10: training loss=0.5",
        "Step 20: training loss=0.5",
        "Postprocessing started.",
    ]
    assert [event.azure_message for event in rest.items] == told[2:]
