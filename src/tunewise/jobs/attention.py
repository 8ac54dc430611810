"""What a person wants to know first: what runs, how far it is, and what needs somebody."""

from typing import NamedTuple

from tunewise.contracts.jobs import Caller, Job
from tunewise.jobs import condition
from tunewise.jobs.platform import Platform
from tunewise.store import events, jobs
from tunewise.store.rows import now

MOST = 20
STEP_BYTES = 100 * 1024**2  # a page that shows it need not change with every byte
FAILURES_SECONDS = 7 * 24 * 3600


class Progress(NamedTuple):
    """A job that has not ended. `step` and what follows are None before the first step."""

    job: Job
    step: int | None = None
    total_steps: int | None = None
    train_loss: float | None = None


class Overview(NamedTuple):
    """How a project stands; each list newest first. `scarce_bytes`: what the disk has left, where that is little."""

    unfinished: tuple[Progress, ...]
    failed: tuple[Job, ...]
    newest: tuple[Job, ...]
    scarce_bytes: int | None


def overview(platform: Platform, caller: Caller) -> Overview:
    """The caller's project as it stands now."""
    disk = condition.disk(platform)
    with platform.database.read() as session:
        page = jobs.listed(session, caller.project, after=None, limit=5)
        return Overview(
            unfinished=tuple(
                _progress(job, events.last_metrics(session, job.id))
                for job in jobs.unfinished(session, caller.project, MOST)
            ),
            failed=tuple(jobs.failed(session, caller.project, since=now() - FAILURES_SECONDS, limit=MOST)),
            newest=tuple(page.items if page else ()),
            scarce_bytes=disk.free // STEP_BYTES * STEP_BYTES if disk.is_scarce else None,
        )


def _progress(job: Job, metrics: dict[str, float | int | None] | None) -> Progress:
    if metrics is None:
        return Progress(job)
    step, total = metrics.get("step"), metrics.get("total_steps")
    return Progress(
        job, None if step is None else int(step), None if total is None else int(total), metrics.get("train_loss")
    )
