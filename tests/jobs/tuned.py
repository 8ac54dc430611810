"""A platform with the tiny model as a base model by name, and tuned models on it that no job had to make."""

from pathlib import Path
from typing import Any

from serve.running import save_adapter
from tunewise.contracts.jobs import Job, JobRequest, TunedModel
from tunewise.contracts.run import BaseModelRef
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings
from tunewise.store import jobs, models
from tunewise.store.rows import new_id, now

BASE = "tests/tiny"
PROJECT = "default"
SHAPE: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}


def make_platform(home: Path, tiny_model: BaseModelRef, **changes: Any) -> Platform:  # noqa: ANN401  # any setting
    """A platform whose one base model besides the catalogue's is the tiny one, as if it came from the hub."""
    settings = Settings(home=home, hub_offline=True, **changes)
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    place = settings.models_dir / f"hub--{BASE.replace('/', '--')}"
    if not place.exists():
        place.symlink_to(tiny_model.path)
    return open_platform(settings)


def add_tuned(
    platform: Platform,
    tiny_model: BaseModelRef,
    *,
    seed: int = 1,
    step: int = 9,
    project: str = PROJECT,
    training_file: str = "file-1",
) -> TunedModel:
    """A tuned model with a random adapter, large enough to change most answers."""
    request = JobRequest(model=BASE, base=BASE, training_file=training_file, seed=1)
    job = Job(
        id=new_id("ftjob-"),
        project=project,
        organization="o",
        request=request,
        status="succeeded",
        created_at=now(),
    )
    adapter = platform.runs_dir / job.id / "adapter"
    save_adapter(tiny_model.path, adapter, seed, SHAPE)
    short, digits = job.id[-8:], job.id.removeprefix("ftjob-")
    model = TunedModel(
        id=new_id("ftckpt_"),
        name=f"ft:{BASE}:o:s:{short}",
        azure_name=f"{BASE}.ft-{digits}-s",
        project=project,
        organization="o",
        job_id=job.id,
        base=BASE,
        step=step,
        is_final=True,
        adapter=str(adapter.relative_to(platform.settings.state_dir)),
        metrics={},
        created_at=now(),
    )
    with platform.database.write() as session:
        jobs.add(session, job)
        models.add(session, model)
    return model
