"""A database that goes away and comes back: clients are told to come again, and the server needs no restart."""

from contextlib import ExitStack, suppress
from pathlib import Path

import openai
import pytest

from api.live import Live, serving
from store.cluster import Cluster
from tunewise.errors import StoreError
from tunewise.store import db, jobs

JOBS = "/v1/fine_tuning/jobs"


def refused(live: Live) -> str:
    """Check that jobs cannot be listed now, and that this is said as clients understand it; why."""
    answer = live.http.get(JOBS)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers
    return str(error["message"])


def test_a_database_that_was_away_is_used_again_without_a_restart(tmp_path: Path, cluster: Cluster) -> None:
    with serving(tmp_path, database_url=cluster.new_database()) as live:
        job = live.job()
        with live.client() as client:
            assert [found.id for found in client.fine_tuning.jobs.list()] == [job.id]
            cluster.stop()
            refused(live)
            assert live.http.get("/readyz").status_code == 503
            assert live.http.get("/healthz").status_code == 200
            with pytest.raises(openai.InternalServerError):
                client.fine_tuning.jobs.cancel(job.id)
            cluster.start()
            assert [found.id for found in client.fine_tuning.jobs.list()] == [job.id]
            assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_a_transaction_that_is_cut_off_changes_nothing(tmp_path: Path, cluster: Cluster) -> None:
    with serving(tmp_path, database_url=cluster.new_database()) as live:
        job = live.job()

        def cancel_and_fall() -> None:
            with live.platform.database.write() as session:
                jobs.transition(session, job.id, "cancelled")
                cluster.stop()

        with pytest.raises(StoreError, match="not known"):
            cancel_and_fall()
        cluster.start()
        assert live.http.get(f"{JOBS}/{job.id}").json()["status"] == "running"


def test_while_all_connections_are_in_use_clients_are_told_to_come_again(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "WAIT_SECONDS", 0.2)
    with serving(tmp_path, database_url=database_url) as live:
        with ExitStack() as held:
            with suppress(StoreError):
                while True:
                    held.enter_context(live.platform.database.read())
            assert "in use" in refused(live)
        assert live.http.get(JOBS).status_code == 200
