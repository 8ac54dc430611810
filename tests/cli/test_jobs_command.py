"""`tunewise jobs` against a live server."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from api.live import ROW, Live, live
from tunewise.cli import app
from tunewise.contracts.evaluations import EvaluationRequest
from tunewise.contracts.fine_tuning import Method
from tunewise.contracts.jobs import Job, JobRequest
from tunewise.contracts.run import RunEvent, RunFailure, StepMetrics
from tunewise.jobs.access import DEFAULT_PROJECT
from tunewise.jobs.platform import open_platform
from tunewise.settings import Settings
from tunewise.store import events, files, jobs
from tunewise.store.rows import new_id

RUNNER = CliRunner()


@pytest.fixture
def server(settings: Settings) -> Iterator[Live]:
    with live(open_platform(settings)) as running:
        yield running


def command(server: Live, *arguments: str) -> Result:
    return RUNNER.invoke(app, ["jobs", *arguments, "--url", f"{server.url}/v1"])


def add_job(server: Live, method: Method = Method()) -> Job:  # noqa: B008 (frozen)
    request = JobRequest(model="m", base="m", training_file="file-1", seed=1, method=method)
    job = Job(
        id=new_id("ftjob-"),
        project=DEFAULT_PROJECT,
        organization="o",
        request=request,
        status="validating_files",
        created_at=1_700_000_000,
    )
    with server.platform.database.write() as session:
        jobs.add(session, job)
        events.tell(session, job.id, f"Created fine-tuning job: {job.id}")
        jobs.transition(session, job.id, "queued")
    return job


def step_event(step: int) -> RunEvent:
    data = StepMetrics(
        step=step, total_steps=250, train_loss=1 / step, train_mean_token_accuracy=0.5, tokens=step, seconds=step
    )
    return RunEvent(seq=step, created_at=step, level="info", type="metrics", message=f"Step {step}/250", data=data)


def test_jobs_are_listed_newest_first_and_shown(server: Live) -> None:
    made = [add_job(server) for _ in range(3)]
    listed = command(server, "list", "--limit", "2")
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [[job.id, "queued"] for job in made[:0:-1]]
    rows = command(server, "list", "--json").stdout.splitlines()
    assert [json.loads(row)["id"] for row in rows] == [job.id for job in made[::-1]]
    assert f"job               {made[0].id}\nstatus            queued" in command(server, "show", made[0].id).stdout


def test_a_preference_job_is_shown_with_its_method_and_followed_with_its_pairs(server: Live) -> None:
    job = add_job(server, Method(type="dpo"))
    shown = "dpo: batch_size auto, learning_rate_multiplier auto, n_epochs auto, beta auto"
    assert f"method            {shown}" in command(server, "show", job.id).stdout
    step = step_event(1)
    assert step.data
    rewarded = step.data.model_copy(update={"train_reward_accuracy": 0.75})
    with server.platform.database.write() as session:
        events.copy(session, job.id, [step.model_copy(update={"data": rewarded})])
        jobs.transition(session, job.id, "cancelled")
    told = [json.loads(line) for line in command(server, "watch", job.id, "--json").stdout.splitlines()]
    details = [line["detail"] for line in told if line.get("event") == "progress"]
    assert details == ["step 1/250, loss 1.000, better answer preferred 75%"]


def test_a_job_is_paused_resumed_and_cancelled_and_its_log_tells_so(server: Live) -> None:
    job = add_job(server)
    assert "status            paused" in command(server, "pause", job.id).stdout
    assert "status            queued" in command(server, "resume", job.id).stdout
    assert json.loads(command(server, "cancel", job.id, "--json").stdout)["status"] == "cancelled"
    log = command(server, "logs", job.id).stdout.splitlines()
    assert [line.split("  ")[-1].removeprefix("info  ").strip() for line in log][1:] == [
        "The job was paused",
        "The job was resumed",
        "The job was cancelled",
    ]
    assert len(command(server, "logs", job.id, "--tail", "1").stdout.splitlines()) == 1


def test_what_the_server_refuses_is_told_in_its_words(server: Live) -> None:
    job = add_job(server)
    command(server, "cancel", job.id)
    for arguments, word in ((("resume", job.id), "cancelled"), (("show", "ftjob-0"), "Could not find fine tune")):
        result = command(server, *arguments)
        assert result.exit_code == 9
        assert word in result.stderr


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewise.cli.remote.get_settings", lambda: Settings(url="http://127.0.0.1:9/v1"))
    result = RUNNER.invoke(app, ["jobs", "list"])
    assert result.exit_code == 9
    assert "No server answers at http://127.0.0.1:9/v1: start one with `tunewise up`" in result.stderr


@pytest.mark.parametrize("ending", ["succeeded", "failed"])
def test_watching_follows_a_job_to_its_end(server: Live, ending: str) -> None:
    job = add_job(server)
    seen: list[Result] = []
    watching = threading.Thread(target=lambda: seen.append(command(server, "watch", job.id, "--json")))
    watching.start()
    with server.platform.database.write() as session:
        jobs.transition(session, job.id, "running")
        events.copy(session, job.id, [step_event(step) for step in range(1, 251)])
    with server.platform.database.write() as session:
        if ending == "succeeded":
            jobs.transition(session, job.id, "succeeded", fine_tuned_model="ft:m:o::abc")
        else:
            error = RunFailure(code="loss_not_finite", message="the loss is nan", param=None)
            jobs.transition(session, job.id, "failed", error=error.model_dump())
        events.tell(session, job.id, "The end")
    watching.join(timeout=60)
    (result,) = seen
    told = [json.loads(line) for line in result.stdout.splitlines()]
    steps = [event["done"] for event in told if event.get("event") == "progress"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 250
    assert next(event for event in told if event.get("detail"))["detail"].startswith(f"step {steps[0]}/250, loss ")
    notes = [event["text"] for event in told if event.get("event") == "note"]
    assert notes[-1] == "The end"
    if ending == "succeeded":
        assert (result.exit_code, told[-1]["fine_tuned_model"]) == (0, "ft:m:o::abc")
    else:
        assert result.exit_code == 5
        assert "error (loss_not_finite): the loss is nan" in result.stderr


def test_more_files_than_a_page_may_have_are_asked_for_page_by_page(server: Live) -> None:
    result = RUNNER.invoke(app, ["files", "list", "--limit", "20000", "--url", f"{server.url}/v1"])
    assert result.exit_code == 0, result.output


def test_a_job_is_judged_by_a_config_whose_files_are_uploaded(server: Live, tmp_path: Path) -> None:
    train = server.http.post("/v1/files", files={"file": ("t.jsonl", ROW * 12), "purpose": (None, b"fine-tune")}).json()
    job = server.job(status="succeeded", file=train["id"])
    server.model(job, is_final=True)
    server.evaluation(job, "succeeded")
    (tmp_path / "test.jsonl").write_bytes(ROW)
    (tmp_path / "labels.json").write_text('["b"]')
    config = {
        "data": {"train": "unread.jsonl", "test": "test.jsonl"},
        "graders": [{"name": "label", "type": "label", "labels": "labels.json"}],
    }
    (tmp_path / "tunewise.yaml").write_text(yaml.safe_dump(config))
    assert command(server, "report", job.id, "--output", str(tmp_path / "report.html")).stdout == "succeeded\n"
    assert "<html" in (tmp_path / "report.html").read_text()
    answer = command(server, "evaluate", job.id, "--config", str(tmp_path / "tunewise.yaml"), "--json")
    asked = EvaluationRequest.model_validate(json.loads(answer.stdout)["request"])
    with server.platform.database.read() as session:
        kept = {param: files.get(session, job.project, file_id) for param, file_id in asked.files.items()}
    names = {param: file.filename for param, file in kept.items() if file is not None}
    assert names == {"test_file": "test.jsonl", "graders.0.labels": "labels.json"}
    assert command(server, "report", job.id).stdout == "pending\n"
