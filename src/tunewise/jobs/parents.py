"""Continued fine-tuning: the adapter of a tuned model, kept with the run that goes on from it.

The parent's files are copied into the run directory, so that the run can be replayed after the parent is deleted.
"""

import hashlib
import json
from typing import Any, NamedTuple

from tunewise.contracts.fine_tuning import LoraRequest
from tunewise.contracts.jobs import Job, TunedModel
from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, SPEC_FILE, BaseModelRef, ParentAdapter, TrainSpec
from tunewise.errors import ModelError
from tunewise.jobs.platform import Platform
from tunewise.jobs.stages import copy_synced, sync_directory
from tunewise.store import models

PARENT_DIR = "parent"
_CONFIG = "adapter_config.json"


class Parent(NamedTuple):
    """The adapter to go on from, and its shape, which the new one must have too."""

    adapter: ParentAdapter
    lora: LoraRequest


def freeze(platform: Platform, job: Job, base: BaseModelRef) -> Parent | None:
    """Copy the parent's adapter into the job's run directory; None where the job begins from the base model.

    Raises:
        ModelError: parent_not_found, parent_base_differs.
    """
    if job.request.parent is None:
        return None
    with platform.database.read() as session:
        parent = models.find(session, job.project, job.request.parent)
    if parent is None:
        raise _gone(job.request.parent)
    source = platform.settings.state_dir / parent.adapter
    _check_base(platform, parent, base)
    kept = platform.runs_dir / job.id / PARENT_DIR
    kept.mkdir(parents=True, exist_ok=True)
    try:
        for name in (_CONFIG, ADAPTER_WEIGHTS_FILE):
            copy_synced(source / name, kept / name)
    except FileNotFoundError as missing:
        raise _gone(parent.name) from missing
    sync_directory(kept)
    config = json.loads((kept / _CONFIG).read_bytes())
    digest = hashlib.sha256((kept / ADAPTER_WEIGHTS_FILE).read_bytes()).hexdigest()
    return Parent(ParentAdapter(path=kept.resolve(), sha256=digest), _shape(config))


def _shape(config: dict[str, Any]) -> LoraRequest:
    targets = config["target_modules"]
    return LoraRequest(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config["lora_dropout"],
        targets="all-linear" if targets == "all-linear" else tuple(sorted(targets)),
    )


def _check_base(platform: Platform, parent: TunedModel, base: BaseModelRef) -> None:
    manifest = platform.runs_dir / parent.job_id / SPEC_FILE
    trained_on = TrainSpec.model_validate_json(manifest.read_bytes()).base_model if manifest.exists() else base
    if trained_on.revision != base.revision:
        raise ModelError(
            "parent_base_differs",
            f"{parent.name} was tuned from {trained_on.name} with content {trained_on.revision[:12]}, but "
            f"{base.name} has the content {base.revision[:12]} now; start from the base model, or restore its files",
            param="model",
        )


def _gone(name: str) -> ModelError:
    return ModelError(
        "parent_not_found", f"the model {name!r} is not there any more; start from another", param="model"
    )
