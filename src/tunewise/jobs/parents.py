"""Continued fine-tuning: what a tuned model leaves to the run that goes on from it, kept with that run.

Of a parent that is an adapter, the adapter; of one whose every weight was tuned, the whole model, which is then the
base. The files are kept in the run directory, so that the run can be replayed after the parent is deleted.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tunewise import catalogue
from tunewise.contracts.fine_tuning import LoraRequest
from tunewise.contracts.jobs import Job, TunedModel
from tunewise.contracts.run import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    SPEC_FILE,
    BaseModelRef,
    ParentAdapter,
    TrainSpec,
)
from tunewise.errors import ModelError
from tunewise.jobs.platform import Platform
from tunewise.jobs.stages import copy_synced, link_or_copy, sync_directory
from tunewise.jobs.weights import kind_in
from tunewise.store import models

PARENT_DIR = "parent"
BASE_DIR = "base"


class Parent(NamedTuple):
    """The adapter to go on from, its shape, which one that trains on must have too, and its layers, if not all."""

    adapter: ParentAdapter
    lora: LoraRequest
    top_layers: int | None


def base_of(platform: Platform, job: Job) -> BaseModelRef:
    """The model that the job's weights are added to or begin at: the catalogue's, or a tuned one's own.

    Raises:
        ModelError: parent_not_found, or the base model cannot be used.
    """
    if job.request.parent is None:
        return catalogue.find(job.request.base, platform.settings)
    parent = _parent(platform, job)
    weights = platform.settings.state_dir / parent.adapter
    source = weights if kind_in(weights) == "model" else own_base(platform, parent.job_id)
    if source is None:
        return catalogue.find(job.request.base, platform.settings)
    kept = platform.runs_dir / job.id / BASE_DIR
    _keep(parent, kept, [path for path in source.iterdir() if path.is_file()], link_or_copy)
    return catalogue.find(str(kept), platform.settings).model_copy(update={"name": parent.name})


def own_base(platform: Platform, job_id: str) -> Path | None:
    """The whole tuned model that a job went on from, where it did."""
    kept = platform.runs_dir / job_id / BASE_DIR
    return kept if kind_in(kept) == "model" else None


def freeze(platform: Platform, job: Job, base: BaseModelRef) -> Parent | None:
    """Copy the parent's adapter into the job's run directory; None where the job begins from a whole model.

    Raises:
        ModelError: parent_not_found, parent_base_differs.
    """
    if job.request.parent is None:
        return None
    parent = _parent(platform, job)
    source = platform.settings.state_dir / parent.adapter
    if kind_in(source) == "model":
        return None
    _check_base(platform, parent, base)
    kept = platform.runs_dir / job.id / PARENT_DIR
    _keep(parent, kept, [source / name for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)], copy_synced)
    config = json.loads((kept / ADAPTER_CONFIG_FILE).read_bytes())
    digest = hashlib.sha256((kept / ADAPTER_WEIGHTS_FILE).read_bytes()).hexdigest()
    adapter = ParentAdapter(path=kept.resolve(), sha256=digest, use=job.request.training.parent_use)
    layers = config.get("layers_to_transform")
    return Parent(adapter, _shape(config), None if layers is None else len(layers))


def _parent(platform: Platform, job: Job) -> TunedModel:
    with platform.database.read() as session:
        parent = models.find(session, job.project, job.request.parent or "")
    if parent is None:
        raise _gone(job.request.parent or "")
    return parent


def _keep(parent: TunedModel, kept: Path, files: Iterable[Path], keep: Callable[[Path, Path], None]) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    try:
        for file in files:
            keep(file, kept / file.name)
    except FileNotFoundError as missing:
        raise _gone(parent.name) from missing
    sync_directory(kept)


def _shape(config: dict[str, Any]) -> LoraRequest:
    targets = config["target_modules"]
    return LoraRequest(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config["lora_dropout"],
        targets="all-linear" if targets == "all-linear" else tuple(sorted(targets)),
        rank_stabilized=config.get("use_rslora", False),
        dora=config.get("use_dora", False),
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
