"""A page of a run asks the database little, and what it is told at once is what each use case tells."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event

from tunewise.contracts.jobs import Caller
from tunewise.errors import RequestError
from tunewise.jobs import evaluations, example, fine_tuning, following
from tunewise.jobs.following import Follower
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings, get_settings
from tunewise.store import events

OWNER = Caller(organization="o", project="p", role="admin")
STRANGER = Caller(organization="o", project="q", role="admin")


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = open_platform(Settings(home=get_settings().home, state=tmp_path / "state"))
    yield platform
    platform.database.close()


@contextmanager
def statements(platform: Platform) -> Iterator[list[str]]:
    """What the database is asked meanwhile."""
    asked: list[str] = []

    def hear(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(platform.database.engine, "before_cursor_execute", hear)
    yield asked
    event.remove(platform.database.engine, "before_cursor_execute", hear)


def test_the_story_of_a_run_is_what_its_parts_tell_and_takes_three_queries(platform: Platform) -> None:
    job = example.start(platform, OWNER)
    with platform.database.write() as session:
        for number in range(5):
            events.tell(session, job.id, f"event {number}")
    follower = Follower(platform, job.id)
    with statements(platform) as asked:
        story = follower.read_story(platform, OWNER, 3)
    assert len(asked) == 3
    assert story.state == follower.look(platform, OWNER)
    assert story.state.job == fine_tuning.retrieve(platform, OWNER, job.id)
    assert story.state.evaluation == evaluations.retrieve(platform, OWNER, job.id)
    assert story.progress == evaluations.progress(platform, OWNER, job.id)
    assert story.events == fine_tuning.list_events(platform, OWNER, job.id, after=None, limit=3).items
    assert [one.message for one in story.events] == ["event 4", "event 3", "event 2"]
    assert story.files == tuple(following.files_of(platform, OWNER, job.id))


def test_nobody_else_is_told_the_story(platform: Platform) -> None:
    job = example.start(platform, OWNER)
    with pytest.raises(RequestError) as refused:
        Follower(platform, job.id).read_story(platform, STRANGER, 3)
    assert refused.value.code == "fine_tune_not_found"
