"""What the studio's first pages ask: how a project stands, the example in one click, keys, storage."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tunewise.contracts.jobs import Caller, Job, JobRequest, JobStatus
from tunewise.contracts.run import RunEvent, StepMetrics
from tunewise.errors import RequestError
from tunewise.jobs import access, condition, evaluations, example, files, keyring
from tunewise.jobs.attention import overview
from tunewise.jobs.condition import Disk
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings, get_settings
from tunewise.store import events, jobs
from tunewise.store.rows import now

ADMIN = Caller(organization="o", project="default", role="admin")
MEMBER = ADMIN.model_copy(update={"role": "member"})
STRANGER = Caller(organization="other", project="theirs", role="admin")
REPOSITORY = Path(__file__).parents[2]
GB = 1024**3


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = open_platform(Settings(home=get_settings().home, state=tmp_path / "state"))
    yield platform
    platform.database.close()


def add(platform: Platform, job_id: str, status: JobStatus, finished_at: int | None = None) -> None:
    request = JobRequest(model="m", base="m", training_file="f", seed=1)
    job = Job(
        id=job_id,
        project=ADMIN.project,
        organization="o",
        request=request,
        status=status,
        created_at=1,
        finished_at=finished_at,
    )
    with platform.database.write() as session:
        jobs.add(session, job)


def test_an_overview_tells_what_runs_how_far_it_is_and_what_failed_lately(platform: Platform) -> None:
    add(platform, "ftjob-old", "failed", finished_at=5)
    add(platform, "ftjob-bad", "failed", finished_at=now())
    add(platform, "ftjob-1", "running")
    add(platform, "ftjob-2", "queued")
    steps = [
        RunEvent(
            seq=step,
            created_at=1.0,
            level="info",
            type="metrics",
            message=f"Step {step}",
            data=StepMetrics(
                step=step, total_steps=9, train_loss=1 / step, train_mean_token_accuracy=0.5, tokens=1, seconds=1.0
            ),
        )
        for step in (1, 2)
    ]
    with platform.database.write() as session:
        events.copy(session, "ftjob-1", steps)
    found = overview(platform, ADMIN)
    assert [(one.job.id, one.step, one.total_steps, one.train_loss) for one in found.unfinished] == [
        ("ftjob-2", None, None, None),
        ("ftjob-1", 2, 9, 0.5),
    ]
    assert [job.id for job in found.failed] == ["ftjob-bad"]
    assert overview(platform, STRANGER) == found._replace(unfinished=(), failed=(), newest=())


def test_a_disk_is_scarce_where_the_next_checkpoint_may_not_fit() -> None:
    assert Disk(100 * GB, 1 * GB).is_scarce
    assert Disk(1000 * GB, 20 * GB).is_scarce
    assert not Disk(100 * GB, 10 * GB).is_scarce


def test_the_example_s_run_is_kept_with_its_files_and_its_evaluation(platform: Platform) -> None:
    job = example.start(platform, ADMIN)
    kept = files.list_files(platform, ADMIN, purpose=None, after=None, limit=9, order="asc").items
    assert {file.filename for file in kept} == {"train.jsonl", "valid.jsonl", "test.jsonl"}
    assert (job.status, job.request.suffix) == ("validating_files", "recipe-assistant")
    evaluation = evaluations.retrieve(platform, ADMIN, job.id)
    assert evaluation.request.test_file in {file.id for file in kept}
    assert not list(platform.incoming_dir.iterdir())


def test_the_example_s_files_are_packaged_where_it_looks_for_them() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl", "tunewise.yaml"):
        assert f'"examples/{example.NAME}/{name}" = "tunewise/examples/{example.NAME}/{name}"' in project
        assert (example.directory() / name).is_file()


def test_storage_is_counted_by_kind_for_admins_alone(platform: Platform) -> None:
    before = condition.storage(platform, ADMIN).kinds
    (platform.runs_dir / "ftjob-1").mkdir()
    (platform.runs_dir / "ftjob-1" / "weights").write_bytes(b"x" * 5000)
    after = condition.storage(platform, ADMIN).kinds
    assert after["runs"] - before["runs"] >= 5000
    assert after["files"] == before["files"]
    with pytest.raises(RequestError, match="admin"):
        condition.storage(platform, MEMBER)


def test_the_first_key_is_an_admin_s_and_members_make_none(platform: Platform) -> None:
    with pytest.raises(RequestError) as refused:
        keyring.create(platform, ADMIN, role="member", project="default")
    assert refused.value.code == "first_key"
    made = keyring.create(platform, ADMIN, role="admin", project="")
    assert (made.key.organization, made.key.project) == ("o", "default")
    assert keyring.create(platform, ADMIN, role="member", project="default").key.role == "member"
    with pytest.raises(RequestError, match="admin"):
        keyring.create(platform, MEMBER, role="member", project="default")


def test_an_admin_deals_with_the_keys_of_the_own_organization(platform: Platform) -> None:
    own = keyring.create(platform, ADMIN, role="admin", project="default").key
    theirs = access.create_key(platform, role="admin", organization="other", project="theirs").key
    assert keyring.list_keys(platform, ADMIN) == [own]
    assert keyring.list_keys(platform, STRANGER) == [theirs]
    with pytest.raises(RequestError) as refused:
        keyring.revoke(platform, STRANGER, own.id)
    assert refused.value.code == "key_not_found"
    keyring.revoke(platform, ADMIN, own.id)
    assert keyring.list_keys(platform, ADMIN)[0].revoked_at is not None
