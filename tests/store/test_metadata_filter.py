"""The metadata filter finds exactly the jobs that have the pair, whatever characters stand in it, on both databases."""

from itertools import count

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tunewise.contracts.jobs import Job, JobRequest
from tunewise.store import jobs
from tunewise.store.db import Database
from tunewise.store.rows import new_id

# What means something in JSON, in its paths, in SQL or in LIKE, and letters of several lengths in UTF-8.
TRICKY = "\"\\.$[]{}%_'#/:?*@ \t\n0é日🙂e\u0301"
TEXTS = st.text(st.sampled_from(TRICKY), max_size=6) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=64
)
NUMBERS = count()


def found(database: Database, project: str, metadata: dict[str, str]) -> set[str]:
    with database.read() as session:
        page = jobs.listed(session, project, after=None, limit=100, metadata=metadata)
    assert page is not None
    return {job.id for job in page.items}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.lists(st.none() | st.dictionaries(TEXTS, TEXTS, max_size=4), min_size=1, max_size=4), asked=TEXTS)
@example(
    kept=[{'a"b': 'c"d', "": ""}, {"a\\b": "\\", "a": "b"}, {"$.a": ".", "0": "1", "null": "null"}, None], asked='"'
)
@example(kept=[{"a.b": "x"}, {"[0]": "x"}, {'"a"': "x"}, {"a": '{"b": 1}'}], asked="a")
def test_exactly_the_jobs_that_have_the_pair_are_found(
    database: Database, kept: list[dict[str, str] | None], asked: str
) -> None:
    project = f"p{next(NUMBERS)}"
    made: dict[str, dict[str, str]] = {}
    for metadata in kept:
        request = JobRequest(model="m", base="m", training_file="file-1", seed=1, metadata=metadata)
        job = Job(
            id=new_id("ftjob-"), project=project, organization="o", request=request, status="queued", created_at=5
        )
        with database.write() as session:
            jobs.add(session, job)
        made[job.id] = metadata or {}
    filters = [*({key: value} for metadata in made.values() for key, value in metadata.items()), {asked: asked}]
    filters += [metadata for metadata in made.values() if metadata]
    for wanted in filters:
        having = {job_id for job_id, metadata in made.items() if wanted.items() <= metadata.items()}
        assert found(database, project, wanted) == having
