"""When a holder has fallen silent: watched on one's own clock, whatever the wall clocks say."""

from tunewise.contracts.jobs import Job, JobRequest
from tunewise.jobs.worker import Silence


class Clock:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def held(beat: int, owner: str = "w1") -> list[Job]:
    request = JobRequest(model="m", base="m", training_file="file-1", seed=1)
    return [
        Job(
            id="ftjob-1",
            project="p",
            organization="o",
            request=request,
            status="running",
            created_at=1,
            owner=owner,
            beat=beat,
        )
    ]


def watch(silence: Silence, clock: Clock, seconds: float, owned: list[Job]) -> list[Job]:
    """Look every second for so long; what was seen last."""
    found: list[Job] = []
    for _ in range(int(seconds)):
        clock.seconds += 1
        found = silence.broken(owned)
    return found


def test_a_beat_that_stands_still_for_a_lease_is_silence() -> None:
    clock = Clock()
    silence = Silence(10, clock)
    assert watch(silence, clock, 10, held(beat=5)) == []
    assert watch(silence, clock, 1, held(beat=5)) == held(beat=5)


def test_a_beat_that_moves_is_none() -> None:
    clock = Clock()
    silence = Silence(10, clock)
    for beat in range(50):
        assert watch(silence, clock, 1, held(beat)) == []


def test_another_owner_is_watched_anew() -> None:
    clock = Clock()
    silence = Silence(10, clock)
    watch(silence, clock, 10, held(beat=5))
    assert watch(silence, clock, 10, held(beat=5, owner="w2")) == []


def test_what_was_not_watched_is_no_silence() -> None:
    clock = Clock()
    silence = Silence(10, clock)
    watch(silence, clock, 2, held(beat=5))
    clock.seconds += 3600
    assert silence.broken(held(beat=5)) == []
    assert watch(silence, clock, 9, held(beat=5)) == []
    assert watch(silence, clock, 1, held(beat=5)) == held(beat=5)
