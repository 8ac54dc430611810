"""A place for jobs to be disturbed in, and one where nobody disturbs them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.undisturbed import COUNTS
from jobs.nursery import Nursery
from jobs.surviving import Place, kill_trainers, make_place, working
from tunewise.contracts.run import BaseModelRef


@pytest.fixture
def place(tmp_path: Path, nursery: Nursery, tiny_model: BaseModelRef) -> Iterator[Place]:
    place = make_place(tmp_path, nursery, tiny_model)
    yield place
    kill_trainers(place)
    place.platform.database.close()


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: BaseModelRef
) -> Iterator[tuple[Place, str]]:
    place = make_place(tmp_path_factory.mktemp("undisturbed"), nursery, tiny_model)
    job_id = place.submit()
    with working(place):
        assert place.wait_for(job_id, "succeeded", "failed").status == "succeeded"
    yield place, job_id
    place.platform.database.close()


@pytest.fixture(scope="module")
def counts(request: pytest.FixtureRequest, figures: list[str]) -> Iterator[None]:
    """Tell what was disturbed and compared in a module."""
    COUNTS.clear()
    yield
    counted = ", ".join(f"{name} {count}" for name, count in sorted(COUNTS.items()))
    figures.append(f"{request.module.__name__}: {counted}")
