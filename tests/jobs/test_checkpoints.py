"""Checkpoints as models: which are taken out of a run, which are kept, and that a repeated try changes nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tunewise.contracts.jobs import Deployment, Job, JobRequest, ResolvedHyperparameters, TunedModel
from tunewise.contracts.run import TRAINING_STATE, RunEvent, StepMetrics
from tunewise.jobs import checkpoints
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings
from tunewise.store import events, jobs, models

EPOCHS, EPOCH_STEPS = 6, 10
TOTAL = EPOCHS * EPOCH_STEPS
ADAPTER_FILES = {"adapter_model.safetensors", "adapter_config.json", "README.md"}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = open_platform(Settings(home=tmp_path, state=tmp_path / "state"))
    yield platform
    platform.database.close()


@pytest.fixture
def job(platform: Platform) -> Job:
    numbers = ResolvedHyperparameters(n_epochs=EPOCHS, batch_size=1, learning_rate_multiplier=1.0)
    job = Job(
        id="ftjob-1",
        project="p",
        organization="o",
        request=JobRequest(model="m", base="m", training_file="file-1", seed=1),
        status="running",
        created_at=1,
        hyperparameters=numbers,
    )
    with platform.database.write() as session:
        jobs.add(session, job)
    return job


def save(platform: Platform, job: Job, step: int) -> None:
    """A checkpoint as training leaves it."""
    directory = platform.runs_dir / job.id / "checkpoints" / f"step-{step}"
    directory.mkdir(parents=True)
    for name in ADAPTER_FILES | TRAINING_STATE:
        (directory / name).write_text(f"{name} of {step}")


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step=step, total_steps=TOTAL, train_loss=1 / step, train_mean_token_accuracy=0.5, tokens=step, seconds=step
    )


def journal(*, until: int) -> list[RunEvent]:
    """Every step, and a checkpoint at the end of each epoch."""
    told: list[RunEvent] = []
    for step in range(1, until + 1):
        for kind in ("metrics", "checkpoint") if step % EPOCH_STEPS == 0 else ("metrics",):
            told.append(
                RunEvent.model_validate(
                    {
                        "seq": len(told) + 1,
                        "created_at": step,
                        "level": "info",
                        "type": kind,
                        "message": f"Step {step}",
                        "data": metrics(step),
                        "checkpoint": f"checkpoints/step-{step}" if kind == "checkpoint" else None,
                    }
                )
            )
    return told


def follow(platform: Platform, job: Job, told: list[RunEvent]) -> None:
    """What a worker does with what a trainer has told."""
    taken = checkpoints.take_out(platform, job.id, told)
    with platform.database.write() as session:
        checkpoints.copy_journal(session, job, told, taken)
        gone = checkpoints.let_go(session, job, TOTAL)
    checkpoints.remove_adapters(platform, gone)


def pause(platform: Platform, job: Job, step: int) -> None:
    save(platform, job, step)
    taken = checkpoints.take_newest_out(platform, job.id, journal(until=step))
    assert taken is not None
    with platform.database.write() as session:
        checkpoints.publish_checkpoint(session, job, taken)
        gone = checkpoints.let_go(session, job, TOTAL)
    checkpoints.remove_adapters(platform, gone)


def made(platform: Platform, job: Job) -> list[TunedModel]:
    with platform.database.read() as session:
        return models.of_job(session, job.id)


def steps(platform: Platform, job: Job) -> list[int]:
    """The steps of the models, whose adapters are what lies there and nothing else."""
    found = made(platform, job)
    lying = {path.name for path in platform.adapters_dir.iterdir()}
    assert lying == {Path(model.adapter).name for model in found if not model.is_final}
    return [model.step for model in found]


def told_of(platform: Platform, job: Job) -> list[str]:
    with platform.database.read() as session:
        page = events.listed(session, job.id, after=None, limit=1000)
    assert page is not None
    assert [event.seq for event in page.items[::-1]] == list(range(1, len(page.items) + 1))
    return [(event.message or "").split(" with ")[0] for event in page.items[::-1]]


def test_an_adapter_is_taken_out_without_what_only_training_needs(platform: Platform, job: Job) -> None:
    save(platform, job, 10)
    follow(platform, job, journal(until=12))
    (model,) = made(platform, job)
    directory = platform.settings.state_dir / model.adapter
    assert {path.name for path in directory.iterdir()} == ADAPTER_FILES
    assert (directory / "adapter_model.safetensors").read_text() == "adapter_model.safetensors of 10"
    assert model.metrics["train_loss"] == 0.1
    assert told_of(platform, job)[9:12] == ["Step 10", "Checkpoint created at step 10", "Step 11"]


def test_a_journal_that_is_read_again_publishes_nothing_twice(platform: Platform, job: Job) -> None:
    for step in (10, 20):
        save(platform, job, step)
    follow(platform, job, journal(until=15))
    for _ in range(2):
        follow(platform, job, journal(until=25))
    assert steps(platform, job) == [10, 20]
    assert len(told_of(platform, job)) == 27


def test_what_a_kill_left_between_copy_and_row_is_named_by_the_next(platform: Platform, job: Job) -> None:
    save(platform, job, 10)
    first = checkpoints.take_out(platform, job.id, journal(until=10))
    again = checkpoints.take_out(platform, job.id, journal(until=10))
    assert first == again
    assert list(again) == [11]
    follow(platform, job, journal(until=10))
    assert steps(platform, job) == [10]


def test_a_checkpoint_that_was_pruned_before_anyone_came_is_left_out(platform: Platform, job: Job) -> None:
    save(platform, job, 20)
    follow(platform, job, journal(until=20))
    assert steps(platform, job) == [20]
    assert "Checkpoint created at step 10" not in told_of(platform, job)


def test_the_last_steps_checkpoint_is_no_model_of_its_own(platform: Platform, job: Job) -> None:
    save(platform, job, TOTAL)
    follow(platform, job, journal(until=TOTAL))
    assert checkpoints.take_newest_out(platform, job.id, journal(until=TOTAL)) is None
    assert steps(platform, job) == []


def test_the_last_three_epochs_are_kept_and_the_newest_pause(platform: Platform, job: Job) -> None:
    kept = []
    for step in (5, 10, 12, 14, 20, 30, 31, 40):
        if step % EPOCH_STEPS:
            pause(platform, job, step)
        else:
            save(platform, job, step)
            follow(platform, job, journal(until=step))
        kept.append(steps(platform, job))
    assert kept == [
        [5],
        [5, 10],
        [10, 12],
        [10, 14],
        [10, 14, 20],
        [10, 14, 20, 30],
        [10, 20, 30, 31],
        [20, 30, 31, 40],
    ]


def test_what_is_deployed_or_tuned_further_is_kept_beyond_that(platform: Platform, job: Job) -> None:
    for step in (10, 20):
        save(platform, job, step)
        follow(platform, job, journal(until=step))
    deployed, parent = made(platform, job)
    deployment = Deployment(name="d", scope="s", project="p", model=deployed.name, created_at=1, updated_at=1)
    request = JobRequest(model=parent.name, base="m", parent=parent.name, training_file="f", seed=1)
    with platform.database.write() as session:
        models.put_deployment(session, deployment)
        jobs.add(session, job.model_copy(update={"id": "ftjob-2", "request": request}))
    for step in (30, 40, 50):
        save(platform, job, step)
        follow(platform, job, journal(until=step))
    assert steps(platform, job) == [10, 20, 30, 40, 50]
    with platform.database.write() as session:
        models.remove_deployment(session, "p", "d")
        jobs.transition(session, "ftjob-2", "cancelled")
        gone = checkpoints.let_go(session, job, TOTAL)
    checkpoints.remove_adapters(platform, gone)
    assert steps(platform, job) == [30, 40, 50]


def test_a_pause_before_the_first_step_has_nothing_to_publish(platform: Platform, job: Job) -> None:
    assert checkpoints.take_newest_out(platform, job.id, []) is None
