"""Checkpoints of a job as models: taken out of the run directory, published, and let go.

Training prunes its checkpoints, so that the weights are kept under a second name: whole on the disk before the row says
that there is a model, and gone after the row. Knows the run directory and the store; whether a job goes on is others'.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.orm import Session

from tunewise.contracts.jobs import Job, TunedModel
from tunewise.contracts.run import CHECKPOINTS_DIR, TRAINING_STATE, RunEvent, StepMetrics
from tunewise.jobs.names import NewNames, checkpoint_names
from tunewise.jobs.platform import Platform
from tunewise.jobs.stages import link_or_copy, sync_directory
from tunewise.store import events, jobs, models
from tunewise.store.rows import new_id, now

# Of a job's epochs, as OpenAI keeps them; the last one's checkpoint is the final model.
KEPT_EPOCHS = 3
_STEP = "step-"


class TakenOut(NamedTuple):
    """A checkpoint whose adapter is kept at `adapter`, relative to the state directory; no row names it yet."""

    step: int
    metrics: StepMetrics
    adapter: str


def take_out(platform: Platform, job_id: str, journal: Sequence[RunEvent]) -> dict[int, TakenOut]:
    """Keep the adapters of the checkpoints that the journal tells of and that are not models yet; by the event's `seq`.

    The last step's is left out: it is the final model. So is one that training has pruned before anyone came to it.

    Raises:
        OSError: the disk is full.
    """
    told = [(event.seq, event.data) for event in journal if event.type == "checkpoint" and event.data is not None]
    if not told:
        return {}
    with platform.database.read() as session:
        known, steps = events.known(session, job_id), {model.step for model in models.of_job(session, job_id)}
    taken = {
        seq: _take_out(platform, job_id, metrics)
        for seq, metrics in told
        if seq > known and metrics.step < metrics.total_steps and metrics.step not in steps
    }
    return {seq: checkpoint for seq, checkpoint in taken.items() if checkpoint is not None}


def take_newest_out(platform: Platform, job_id: str, journal: Sequence[RunEvent]) -> TakenOut | None:
    """Keep the adapter of the newest checkpoint; None where there is none, or where it is or will be a model already.

    Raises:
        OSError: the disk is full.
    """
    lying = (platform.runs_dir / job_id / CHECKPOINTS_DIR).glob(f"{_STEP}*")
    newest = max((int(path.name.removeprefix(_STEP)) for path in lying), default=0)
    told = (event.data for event in journal if event.type == "metrics" and event.data is not None)
    metrics = next((data for data in told if data.step == newest), None)
    with platform.database.read() as session:
        is_model = any(model.step == newest for model in models.of_job(session, job_id))
    if metrics is None or is_model or metrics.step == metrics.total_steps:
        return None
    return _take_out(platform, job_id, metrics)


def copy_journal(session: Session, job: Job, journal: Sequence[RunEvent], taken: Mapping[int, TakenOut]) -> None:
    """Keep what the trainer has told, in its order; a checkpoint becomes a model together with its event."""
    for is_checkpoint, group in groupby(journal, lambda event: event.type == "checkpoint"):
        if not is_checkpoint:
            events.copy(session, job.id, list(group))
            continue
        for event in group:
            if event.seq in taken:
                publish_checkpoint(session, job, taken[event.seq], run_seq=event.seq)


def publish_checkpoint(session: Session, job: Job, taken: TakenOut, *, run_seq: int | None = None) -> None:
    """Make a checkpoint a model and tell of it. `run_seq`: its event in the trainer's journal, where it has one."""
    names = checkpoint_names(job, taken.step)
    models.add(session, tuned_model(job, names, taken.metrics, taken.step, taken.adapter, is_final=False))
    words = f"Checkpoint created at step {taken.step} with Snapshot ID: "
    events.tell(session, job.id, f"{words}{names.name}", azure=f"{words}{names.azure_name}", run_seq=run_seq)


def tuned_model(
    job: Job, names: NewNames, metrics: StepMetrics | None, step: int, adapter: str, *, is_final: bool
) -> TunedModel:
    """The row of a job's checkpoint or final model."""
    return TunedModel(
        id=new_id("ftckpt_"),
        name=names.name,
        azure_name=names.azure_name,
        project=job.project,
        organization=job.organization,
        job_id=job.id,
        base=job.request.base,
        step=step,
        is_final=is_final,
        adapter=adapter,
        metrics={} if metrics is None else {k: v for k, v in metrics.told().items() if k != "total_steps"},
        created_at=now(),
    )


def let_go(session: Session, job: Job, total_steps: int) -> list[TunedModel]:
    """Forget the models that are not kept any longer, and give them: their adapters are to be removed afterwards.

    Kept are those of the last three epochs and the newest that a pause has made; besides, whatever is deployed or
    tuned further.
    """
    per_epoch = total_steps // (job.hyperparameters.n_epochs if job.hyperparameters else 1)
    there = models.of_job(session, job.id)
    ends = sorted({model.step for model in there if model.step % per_epoch == 0})
    oldest = ends[-KEPT_EPOCHS] if len(ends) >= KEPT_EPOCHS else 0
    of_pauses = [model.id for model in there if model.step % per_epoch]
    stale = [model for model in there if model.step < oldest or model.id in of_pauses[:-1]]
    gone = [model for model in stale if not _is_used(session, model)]
    for model in gone:
        models.remove(session, model.id)
    return gone


def remove_adapters(platform: Platform, gone: Iterable[TunedModel]) -> None:
    """Remove the weights of models that have no row any more; no half of a directory is ever found under its name."""
    for model in gone:
        place = platform.settings.state_dir / model.adapter
        aside = place.with_name(new_id(f".{place.name}."))
        with suppress(FileNotFoundError):
            place.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _is_used(session: Session, model: TunedModel) -> bool:
    return models.deployment_of(session, model) is not None or jobs.using_model(session, model.name) is not None


def _take_out(platform: Platform, job_id: str, metrics: StepMetrics) -> TakenOut | None:
    """Copy the adapter aside and rename it, unless an earlier try has; None where the checkpoint is not there."""
    source = platform.runs_dir / job_id / CHECKPOINTS_DIR / f"{_STEP}{metrics.step}"
    place = platform.adapters_dir / f"{job_id}-{source.name}"
    taken = TakenOut(metrics.step, metrics, str(place.relative_to(platform.settings.state_dir)))
    if place.is_dir():
        return taken
    aside = place.with_name(new_id(f".{place.name}."))
    try:
        _copy_adapter(source, aside)
        aside.rename(place)
    except FileNotFoundError:
        return None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync_directory(place.parent)
    return taken


def _copy_adapter(source: Path, place: Path) -> None:
    """All that hosting and tuning further need, and nothing of what only training goes on from."""
    files = [file for file in source.iterdir() if file.name not in TRAINING_STATE]
    place.mkdir()
    for file in files:
        link_or_copy(file, place / file.name)
    sync_directory(place)
