"""A live server on a free port, its platform beside it, and clients as users have them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import openai
import uvicorn
from fastapi import FastAPI

from evaluate.finished_run import RECIPES, report
from jobs.nursery import Nursery, ServerSpawner
from tunewise.api.limits import READ_SECONDS
from tunewise.app import create_app
from tunewise.catalogue import DEFAULT_MODEL
from tunewise.cli.up import listen
from tunewise.contracts.evaluations import Evaluation, EvaluationRequest, EvaluationStatus
from tunewise.contracts.graders import ExactMatch
from tunewise.contracts.jobs import Job, JobRequest, JobStatus, TunedModel
from tunewise.contracts.run import SPEC_FILE
from tunewise.contracts.study import STUDY_DIR
from tunewise.evaluate.report import write_report
from tunewise.jobs.completions import Relay
from tunewise.jobs.hosting import Hosting
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings, get_settings
from tunewise.store import evaluations, events, jobs, models
from tunewise.store.rows import new_id

ROW = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n'
BASE = DEFAULT_MODEL


class Live(NamedTuple):
    """A server that answers, and what it works on."""

    platform: Platform
    app: FastAPI
    url: str
    http: httpx.Client
    """For what the SDK cannot send."""

    @property
    def relay(self) -> Relay:
        """What passes completions on to hosted models."""
        relay: Relay = self.app.state.relay
        return relay

    def client(
        self, key: str = "placeholder", *, organization: str | None = None, project: str | None = None
    ) -> openai.OpenAI:
        """The real SDK, refusing every answer that its types do not have."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=key,
            organization=organization,
            project=project,
            max_retries=0,
            _strict_response_validation=True,
        )

    def job(self, *, project: str = "default", status: JobStatus = "running", file: str = "file-x") -> Job:
        """A job as a worker would have left it."""
        request = JobRequest(model=BASE, base=BASE, training_file=file, seed=1)
        job = Job(id=new_id("ftjob-"), project=project, organization="o", request=request, status=status, created_at=5)
        with self.platform.database.write() as session:
            jobs.add(session, job)
            events.tell(session, job.id, f"Created fine-tuning job: {job.id}")
        return job

    def evaluation(self, job: Job, status: EvaluationStatus, test_file: str = "file-x") -> Evaluation:
        """A job's evaluation as a worker would have left it, with the files that it looks for."""
        request = EvaluationRequest(test_file=test_file, graders=(ExactMatch(name="exact"),))
        evaluation = Evaluation(job_id=job.id, project=job.project, request=request, status=status, created_at=7)
        with self.platform.database.write() as session:
            evaluations.put(session, evaluation)
        run_dir = self.platform.runs_dir / job.id
        (run_dir / STUDY_DIR).mkdir(parents=True, exist_ok=True)
        write_report(report(RECIPES), run_dir / STUDY_DIR)
        (run_dir / SPEC_FILE).touch()
        return evaluation

    def model(self, job: Job, *, step: int = 10, is_final: bool = False) -> TunedModel:
        """A tuned model or checkpoint with a directory."""
        end = "" if is_final else f":ckpt-step-{step}"
        adapter = f"runs/{job.id}/adapter" if is_final else f"adapters/{job.id}-step-{step}"
        (self.platform.settings.state_dir / adapter).mkdir(parents=True)
        model = TunedModel(
            id=new_id("ftckpt_"),
            name=f"ft:{BASE}:o:s:{new_id('')[:8]}{end}",
            azure_name=f"{BASE}.ft-{job.id[6:]}{end}",
            project=job.project,
            organization=job.organization,
            job_id=job.id,
            base=BASE,
            step=step,
            is_final=is_final,
            adapter=adapter,
            metrics={"step": step, "train_loss": 0.5},
            created_at=6,
        )
        with self.platform.database.write() as session:
            models.add(session, model)
        return model


@contextmanager
def live(platform: Platform, *, read_seconds: float = READ_SECONDS, nursery: Nursery | None = None) -> Iterator[Live]:
    """Serve `platform` until the end of the block, in a thread of the test's process.

    `nursery`: where model servers are forked; without, each is started anew.
    """
    hosting = Hosting(platform, ServerSpawner(nursery.address)) if nursery else None
    app = create_app(platform, read_seconds=read_seconds, hosting=hosting)
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the application did not start"
        time.sleep(0.01)
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=30) as http:
            yield Live(platform, app, url, http)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        platform.database.close()


@contextmanager
def serving(
    home: Path, *, read_seconds: float = READ_SECONDS, nursery: Nursery | None = None, **settings: object
) -> Iterator[Live]:
    """Serve a new state below `home`. Base models are those of this machine."""
    chosen = Settings(home=get_settings().home, state=home / "state", **settings)  # type: ignore[arg-type]
    with live(open_platform(chosen), read_seconds=read_seconds, nursery=nursery) as running:
        yield running
