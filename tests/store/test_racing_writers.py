"""Many writers at once, on both databases: nothing is done twice, nothing is lost, and none fails for the others."""

import time
from collections import Counter

import pytest

from store.cluster import Cluster
from store.racing import at_once
from tunewise.contracts.jobs import Deployment, Job, JobRequest, Permission, StoredFile, Upload
from tunewise.errors import StoreError
from tunewise.store import db, events, files, jobs, models
from tunewise.store.db import Database
from tunewise.store.migrate import NEWEST, revision, upgrade
from tunewise.store.rows import new_id

WRITERS = 8


def add_job(database: Database) -> Job:
    request = JobRequest(model="m", base="m", training_file="file-1", seed=1)
    job = Job(
        id=new_id("ftjob-"), project="p", organization="o", request=request, status="validating_files", created_at=5
    )
    with database.write() as session:
        jobs.add(session, job)
    return job


def test_servers_that_start_at_once_on_an_empty_database_all_come_up(database_url: str) -> None:
    def start(_: int) -> str | None:
        database = Database(database_url)
        before = upgrade(database)
        with database.read() as session:
            assert revision(session.connection()) == NEWEST
        database.close()
        return before

    assert Counter(at_once(WRITERS, start)) == {"empty": 1, None: WRITERS - 1}


def test_each_job_is_claimed_by_one_of_many_workers(database: Database) -> None:
    made = [add_job(database).id for _ in range(40)]

    def work(number: int) -> list[str]:
        """Take what there is, as workers do: look first, then claim."""
        taken: list[str] = []
        while True:
            with database.read() as session:
                seen = jobs.unowned(session)
            if not seen:
                return taken
            for job in seen[:3]:
                with database.write() as session:
                    if jobs.claim(session, job, f"w{number}"):
                        taken.append(job.id)

    taken = at_once(WRITERS, work)
    assert sorted(job_id for of_one in taken for job_id in of_one) == sorted(made)
    with database.write() as session:
        for number, of_one in enumerate(taken):
            assert jobs.heartbeat(session, f"w{number}").keys() == set(of_one)


def test_events_told_by_many_are_numbered_without_gaps(database: Database) -> None:
    job = add_job(database)

    def tell(number: int) -> None:
        for turn in range(10):
            with database.write() as session:
                events.tell(session, job.id, f"{number}.{turn}")

    at_once(WRITERS, tell)
    with database.read() as session:
        page = events.listed(session, job.id, after=None, limit=1000)
    assert page
    assert [event.seq for event in page.items] == list(range(10 * WRITERS, 0, -1))
    assert len({event.message for event in page.items}) == 10 * WRITERS


def test_an_upload_ends_once(database: Database) -> None:
    upload = Upload(
        id="upload_1",
        project="p",
        filename="f",
        purpose="fine-tune",
        bytes=1,
        mime_type="text/plain",
        created_at=1,
        expires_at=2,
        status="pending",
    )
    with database.write() as session:
        files.add_upload(session, upload)

    def end(number: int) -> bool:
        with database.write() as session:
            return files.end_upload(session, upload.id, "completed", f"file-{number}")

    ended = at_once(WRITERS, end)
    assert sum(ended) == 1
    with database.read() as session:
        after = files.get_upload(session, "p", upload.id)
    assert after
    assert after.file_id == f"file-{ended.index(True)}"


def test_a_deployment_and_a_permission_asked_for_by_many_are_made_once(database: Database) -> None:
    deployment = Deployment(
        name="d",
        scope="s/r/a",
        project="p",
        model="m",
        model_format="OpenAI",
        model_version="1",
        sku="standard",
        capacity=1,
        created_at=1,
        updated_at=1,
    )

    def ask(number: int) -> tuple[bool, str]:
        with database.write() as session:
            is_new = models.put_deployment(session, deployment)
            permission = Permission(id=f"cp_{number}", model="m", project="q", created_at=1)
            return is_new, models.grant(session, permission).id

    answers = at_once(WRITERS, ask)
    assert sum(is_new for is_new, _ in answers) == 1
    assert len({permission for _, permission in answers}) == 1


def test_usage_counted_by_many_adds_up(database: Database) -> None:
    def count(_: int) -> None:
        for _turn in range(10):
            with database.write() as session:
                models.record_usage(session, "p", "m", prompt=3, cached=2, completion=1)

    at_once(WRITERS, count)
    with database.read() as session:
        used = models.usage(session, "p", "m")
    assert used == {
        "requests": 10 * WRITERS,
        "prompt_tokens": 30 * WRITERS,
        "cached_tokens": 20 * WRITERS,
        "completion_tokens": 10 * WRITERS,
    }


def test_who_follows_a_list_while_others_write_misses_nothing(database: Database) -> None:
    """Numbers are given at the insert and seen at the commit; were writers not alone, a lower one could come later."""
    wanted = {f"file-{number}.{turn}" for number in range(1, WRITERS) for turn in range(5)}

    def write(number: int) -> None:
        for turn in range(5):
            file = StoredFile(
                id=f"file-{number}.{turn}",
                project="p",
                filename="f",
                purpose="user_data",
                bytes=1,
                sha256="",
                created_at=1,
            )
            with database.write() as session:
                files.add(session, file)
                time.sleep(0.002 * number)

    def follow() -> set[str]:
        seen: list[str] = []
        deadline = time.monotonic() + 20
        while len(seen) < len(wanted) and time.monotonic() < deadline:
            with database.read() as session:
                after = seen[-1] if seen else None
                page = files.listed(session, "p", purpose=None, after=after, limit=100, order="asc")
            assert page is not None
            seen += [file.id for file in page.items]
        return set(seen)

    assert at_once(WRITERS, lambda number: write(number) if number else follow())[0] == wanted


def test_what_a_reader_sees_is_one_moment(database: Database) -> None:
    job = add_job(database)
    with database.read() as session:
        before = jobs.find(session, job.id)
        with database.write() as writing:
            jobs.transition(writing, job.id, "cancelled")
        session.expire_all()
        assert jobs.find(session, job.id) == before
    with database.read() as session:
        after = jobs.find(session, job.id)
    assert after
    assert after.status == "cancelled"


def test_a_writer_that_waits_too_long_is_told_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "WAIT_SECONDS", 1)
    database = Database(database_url)
    upgrade(database)
    job = add_job(database)
    with database.write() as session:
        jobs.claim(session, job, "w1")
        with pytest.raises(StoreError) as refused, database.write() as second:
            jobs.claim(second, job, "w2")
    assert refused.value.code == "database_unavailable"
    with database.read() as session:
        assert [held.owner for held in jobs.owned(session)] == ["w1"]
    database.close()


def test_a_writer_that_has_stopped_does_not_hold_up_the_others(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "IDLE_SECONDS", 1)
    database = Database(cluster.new_database())
    upgrade(database)
    job = add_job(database)

    def stop_halfway() -> None:
        with database.write() as stopped:
            jobs.claim(stopped, job, "w1")
            with database.write() as other:
                assert jobs.claim(other, job, "w2")
            events.tell(stopped, job.id, "too late")

    with pytest.raises(StoreError, match="idle-in-transaction"):
        stop_halfway()
    with database.read() as session:
        assert [held.owner for held in jobs.owned(session)] == ["w2"]
    database.close()
