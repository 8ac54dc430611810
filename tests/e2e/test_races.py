"""What a user asks for at the very moment at which a job gets there by itself: one of the two wins, and wins whole.

TUNEWISE_TEST_RACES says how often each race is run, at other moments each time.
"""

import os
import random
import shutil
import time
from collections import Counter
from threading import Barrier, Thread

import pytest

from e2e.undisturbed import CANCELLED, COUNTS, PAUSED, RESUMED, whole
from jobs.surviving import STEPS, Place, alive_trainers, working
from tunewise.contracts.jobs import Job
from tunewise.jobs import trainer
from tunewise.jobs.publish import publish
from tunewise.store import jobs

RACES = int(os.environ.get("TUNEWISE_TEST_RACES", "2"))
PAUSES = 3

pytestmark = pytest.mark.usefixtures("counts")


def wait_until_nearly_done(place: Place, job_id: str, chance: random.Random) -> None:
    """Until some moment between the last steps and a little after the job's success."""
    place.wait_for_steps(job_id, chance.randrange(STEPS - 4, STEPS + 1))
    time.sleep(chance.random() * 0.5)


@pytest.mark.parametrize("seed", range(RACES))
def test_cancelling_races_with_success(place: Place, undisturbed: tuple[Place, str], seed: int) -> None:
    job_id = place.submit()
    with working(place):
        wait_until_nearly_done(place, job_id, random.Random(seed))
        if place.move(job_id, "cancelled", CANCELLED):
            COUNTS["cancelled before success"] += 1
            place.wait_until_released(job_id)
            assert alive_trainers(place) == []
            assert [(model.step, model.is_final) for model in place.models(job_id)] == [(10, False), (20, False)]
            assert place.job(job_id).result_file is None
        else:
            COUNTS["succeeded before cancelling"] += 1
            whole(place, job_id, undisturbed)


@pytest.mark.parametrize("seed", range(RACES))
def test_pausing_races_with_success(place: Place, undisturbed: tuple[Place, str], seed: int) -> None:
    job_id = place.submit()
    with working(place):
        wait_until_nearly_done(place, job_id, random.Random(seed))
        if place.move(job_id, "paused", PAUSED):
            COUNTS["paused before success"] += 1
            place.wait_until_released(job_id)
            assert alive_trainers(place) == []
            assert place.job(job_id).status == "paused"
            assert place.move(job_id, "queued", RESUMED)
        else:
            COUNTS["succeeded before pausing"] += 1
        assert whole(place, job_id, undisturbed).attempts == 0


@pytest.mark.parametrize("seed", range(RACES))
def test_a_job_is_resumed_as_soon_as_it_was_paused(place: Place, undisturbed: tuple[Place, str], seed: int) -> None:
    chance = random.Random(seed)
    job_id = place.submit()
    with working(place):
        for wanted in sorted(chance.sample(range(1, STEPS), PAUSES)):
            place.wait_for_steps(job_id, wanted)
            time.sleep(chance.random() * 0.1)
            if place.move(job_id, "paused", PAUSED):
                assert place.move(job_id, "queued", RESUMED)
                COUNTS["resumed at once"] += 1
        assert whole(place, job_id, undisturbed).attempts == 0


@pytest.mark.parametrize("seed", range(RACES))
def test_resuming_races_with_the_trainers_exit(place: Place, undisturbed: tuple[Place, str], seed: int) -> None:
    """While it writes its checkpoint, at the moment it ends, and while the worker has not let the job go yet."""
    chance = random.Random(seed)
    job_id = place.submit()
    with working(place):
        for wanted in sorted(chance.sample(range(1, STEPS), PAUSES)):
            place.wait_for_steps(job_id, wanted)
            if not place.move(job_id, "paused", PAUSED):
                continue
            if chance.random() < 0.5:
                place.wait(lambda: not trainer.is_running(place.run_dir(job_id)))
            time.sleep(chance.random() * 0.3)
            COUNTS[f"resumed while {'held' if place.job(job_id).owner else 'released'}"] += 1
            assert place.move(job_id, "queued", RESUMED)
        assert whole(place, job_id, undisturbed).attempts == 0


def test_publishing_races_with_cancelling(place: Place, undisturbed: tuple[Place, str]) -> None:
    """Fifty times, on a run that has ended: all of success or nothing of it."""
    reference, reference_id = undisturbed
    result = trainer.result_of(reference.run_dir(reference_id))
    assert result is not None
    won = Counter[str]()
    for _ in range(50):
        job_id = place.submit()
        shutil.copytree(reference.run_dir(reference_id), place.run_dir(job_id))
        with place.platform.database.write() as session:
            jobs.transition(session, job_id, "queued")
            job = jobs.transition(session, job_id, "running", owner=None)
            assert job is not None
            jobs.claim(session, job, "w")
        barrier = Barrier(2)

        def finish(job: Job = job, barrier: Barrier = barrier) -> None:
            barrier.wait()
            won["published"] += publish(place.platform, job, result, "w")

        thread = Thread(target=finish)
        thread.start()
        barrier.wait()
        won["cancelled"] += place.move(job_id, "cancelled", CANCELLED)
        thread.join()
        job = place.job(job_id)
        assert (len(place.models(job_id)), job.result_file is not None) == (
            (1, True) if job.status == "succeeded" else (0, False)
        )
        shutil.rmtree(place.run_dir(job_id))
    assert won.total() == 50, "one of the two wins, never both"
    COUNTS["races of publishing"] += 50
