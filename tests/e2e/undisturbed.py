"""Whether a disturbed job has ended as an undisturbed one, and how much was disturbed and compared."""

import re
from collections import Counter

from jobs.surviving import Place
from tunewise.contracts.jobs import Job
from tunewise.jobs import trainer

EPOCH_STEPS = 10
COUNTS: Counter[str] = Counter()
PAUSED, RESUMED, CANCELLED = "The job was paused", "The job was resumed", "The job was cancelled"


def whole(place: Place, job_id: str, undisturbed: tuple[Place, str]) -> Job:
    """Check that the job has ended as the undisturbed one: weights, metrics, models, files, a story without gaps."""
    reference, reference_id = undisturbed
    job = place.wait_for(job_id, "succeeded", "failed", "cancelled")
    assert job.status == "succeeded", place.story()
    assert weights(place, job_id) == weights(reference, reference_id)
    assert metrics(place, job_id) == metrics(reference, reference_id)
    assert [words for words in place.words(job_id) if not is_of_a_pause(words)] == reference.words(reference_id)
    numbers = place.numbers(job_id)
    assert numbers == list(range(1, len(numbers) + 1))
    made = [model for model in place.models(job_id) if model.step % EPOCH_STEPS == 0]
    assert [(model.step, model.is_final) for model in made] == [(10, False), (20, False), (30, True)]
    assert [place.adapter_sha256(model) for model in made] == [
        reference.adapter_sha256(model) for model in reference.models(reference_id)
    ]
    assert table(place, job_id) == table(reference, reference_id)
    assert not trainer.is_running(place.run_dir(job_id))
    COUNTS["jobs"] += 1
    COUNTS["events compared"] += len(numbers)
    return job


def is_of_a_pause(words: str) -> bool:
    """Whether an undisturbed job does not tell this: of a pause, its end, and its checkpoint within an epoch."""
    checkpoint = re.fullmatch(r"Checkpoint created at step (\d+) with .*", words)
    return words in {PAUSED, RESUMED} or (checkpoint is not None and int(checkpoint[1]) % EPOCH_STEPS != 0)


def weights(place: Place, job_id: str) -> str | None:
    """The hash of the adapter's weights."""
    return place.result(job_id).adapter_sha256


def metrics(place: Place, job_id: str) -> list[object]:
    """The data of every step."""
    return [event.data for event in place.events(job_id) if event.type == "metrics"]


def table(place: Place, job_id: str) -> bytes:
    """The result file."""
    result_file = place.job(job_id).result_file
    assert result_file is not None
    return (place.platform.files_dir / result_file).read_bytes()
