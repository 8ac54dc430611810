"""A training run in memory: made from a spec, brought to where its newest checkpoint stood. Knows no steps."""

import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
import torch
from pydantic import ValidationError
from torch.optim import AdamW
from transformers import PreTrainedModel

from tunewise.contracts.run import (
    CHECKPOINTS_DIR,
    EVENTS_FILE,
    SPEC_FILE,
    BaseModelRef,
    SupervisedObjective,
    TrainSpec,
)
from tunewise.data.template import Template
from tunewise.errors import TrainingError
from tunewise.modeling.loops import use_threads
from tunewise.modeling.memory import (
    BYTES_BESIDE_A_TRAINED_WEIGHT,
    keep_within_memory,
    recompute_activations,
)
from tunewise.modeling.sharding import share_layers
from tunewise.modeling.trunk import FrozenTrunk, keep_trunk
from tunewise.train.checkpoint import directory_of, load_checkpoint, remove_leftovers, steps_on_disk
from tunewise.train.criterion import Criterion
from tunewise.train.journal import Journal, Silence
from tunewise.train.methods import criterion, needs_reference
from tunewise.train.optimizer import make_optimizer
from tunewise.train.plan import PART_TOKENS, steps_per_epoch
from tunewise.train.progress import Progress
from tunewise.train.reference import keep_reference, lost_reference, make_reference, read_reference, with_reference
from tunewise.train.rows import Loaded, load_rows
from tunewise.train.trackers import Trackers, require_installed
from tunewise.train.tuned import Tuned, begin, load_base
from tunewise.train.world import ALONE, World

log = logging.getLogger(__name__)


@dataclass
class Session:
    """What a run holds while it lasts; `progress` is replaced after each step."""

    directory: Path
    spec: TrainSpec
    train: Loaded
    valid: Loaded | None
    base: PreTrainedModel
    model: Tuned
    criterion: Criterion
    optimizer: AdamW
    journal: Journal | Silence
    progress: Progress
    world: World
    trackers: Trackers | None
    stop_ids: frozenset[int]
    trunk: FrozenTrunk | None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training rows."""
        return steps_per_epoch(len(self.train.units), self.spec.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, if nothing stops it early."""
        return self.steps_per_epoch * self.spec.n_epochs

    @property
    def checkpoints(self) -> Path:
        """The directory of checkpoints."""
        return self.directory / CHECKPOINTS_DIR

    @property
    def is_finished(self) -> bool:
        """Whether no step is left: all are done, or early stopping has ended the run."""
        patience = self.spec.early_stopping_patience
        stopped = patience is not None and self.progress.stale_epochs >= patience
        return stopped or self.progress.step >= self.total_steps


def read_spec(directory: Path) -> TrainSpec:
    """Read the manifest of a run.

    Raises:
        TrainingError: missing_spec, invalid_spec.
    """
    path = directory / SPEC_FILE
    if not path.is_file():
        raise TrainingError("missing_spec", f"{path}: no such file; give the directory of a run")
    try:
        spec = TrainSpec.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise TrainingError(
            "invalid_spec",
            f"{path}: {field or 'the file'}: {first['msg']}; submit the job again or mend the file",
            param=field or None,
        ) from error
    if spec.early_stopping_patience is not None and spec.valid_file is None:
        raise TrainingError(
            "early_stopping_needs_validation",
            f"{path}: early_stopping_patience is {spec.early_stopping_patience}, but there is no validation file; "
            "add one or leave early stopping out",
            param="early_stopping_patience",
        )
    return spec


def open_session(directory: Path, spec: TrainSpec, world: World = ALONE) -> Session:
    """Load everything a run needs and go back to its newest checkpoint, if there is one.

    Raises:
        DataError, ModelError, TrainingError: the data, the base model or a checkpoint cannot be used.
    """
    require_installed(spec.trackers)
    world = replace(world, in_step=world.size > 1 and spec.sharding == "fsdp")
    cores = min(usable_cores(), spec.threads or usable_cores())
    threads = max(1, cores // world.size)
    torch.set_num_threads(threads)
    use_threads(threads)
    template = Template.load(_existing(spec.base_model))
    load = partial(load_rows, template=template, objective=spec.objective, max_tokens=spec.max_tokens)
    train = load(spec.train_file, overlong=spec.overlong)
    valid = load(spec.valid_file, overlong=spec.overlong) if spec.valid_file else None
    longest = max(unit.tokens for unit in train.units)
    checkpoints = directory / CHECKPOINTS_DIR
    checkpoints.mkdir(exist_ok=True)
    if world.is_first:
        remove_leftovers(checkpoints)
        remove_leftovers(directory)
    steps = steps_on_disk(checkpoints)
    newest = directory_of(checkpoints, steps[-1]) if steps else None
    with world.in_turn() if world.in_step else nullcontext():
        base = load_base(spec, newest)
        _decide_on_activations(base, spec, (longest + PART_TOKENS) * world.size)
        torch.manual_seed(spec.seed)
        model = begin(base, spec, newest)
        if world.in_step:
            share_layers(base, world.size)
    model.train()
    seconds = 0.0
    if needs_reference(spec.objective):
        train, valid, seconds = _referenced(directory, spec, base, train, valid, world, has_begun=newest is not None)
    trunk = None
    if spec.top_layers is not None and _keeps_trunk(spec, world):
        trunk = keep_trunk(base, spec.top_layers, directory)
    optimizer = make_optimizer(model, spec)
    progress = load_checkpoint(newest, optimizer) if newest else Progress(seconds=seconds)
    events = directory / EVENTS_FILE
    journal = Journal(events, size=progress.events_size, seq=progress.events_seq) if world.is_first else Silence()
    return Session(
        directory,
        spec,
        train,
        valid,
        base,
        model,
        criterion(spec.objective, share_prefixes=_may_share(spec)),
        optimizer,
        journal,
        progress,
        world,
        Trackers(directory, spec, partial(journal.write, level="warn")) if world.is_first else None,
        template.stop_ids,
        trunk,
    )


def _referenced(
    directory: Path,
    spec: TrainSpec,
    base: PreTrainedModel,
    train: Loaded,
    valid: Loaded | None,
    world: World,
    *,
    has_begun: bool,
) -> tuple[Loaded, Loaded | None, float]:
    """The rows with their reference log-probabilities, and how many seconds these took."""
    found = read_reference(directory, spec)
    # All of several processes compute them where one has not found them: they may hold the weights together.
    if world.any(found is None) or found is None:
        if has_begun:
            raise lost_reference(directory)
        found = make_reference(base, train.units, valid.units if valid else [])
        if world.is_first:
            keep_reference(directory, spec, found)
    train = train._replace(units=with_reference(train.units, found.train))
    return train, valid and valid._replace(units=with_reference(valid.units, found.valid)), found.seconds


def _decide_on_activations(base: PreTrainedModel, spec: TrainSpec, part_tokens: int) -> None:
    if spec.activation_checkpointing is True:
        recompute_activations(base)
        return
    trained = base.num_parameters() if spec.weights == "full" else 0
    spoken_for = BYTES_BESIDE_A_TRAINED_WEIGHT * trained
    is_auto = spec.activation_checkpointing == "auto"
    if is_auto and keep_within_memory(base, part_tokens, spec.top_layers, spoken_for=spoken_for):
        log.info("activations are recomputed: those of %d tokens do not fit in memory", part_tokens)


def _keeps_trunk(spec: TrainSpec, world: World) -> bool:
    """Not where the embeddings differ each time or are trained, or where processes run each layer equally often."""
    noise = isinstance(spec.objective, SupervisedObjective) and spec.objective.neftune_alpha is not None
    return not noise and not spec.base_model.added_tokens and not world.in_step


def _may_share(spec: TrainSpec) -> bool:
    """Not where equal tokens differ by chance, or where each row's lower layers are kept by themselves."""
    return spec.lora.dropout == 0 and spec.top_layers is None


def usable_cores() -> int:
    """Physical cores that this process may use; a second thread on a core slows matrix products down."""
    return min(len(os.sched_getaffinity(0)), psutil.cpu_count(logical=False) or 1)


def _existing(base: BaseModelRef) -> Path:
    if not base.path.is_dir():
        raise TrainingError(
            "missing_base_model",
            f"base model {base.name}: {base.path} is not there; run `tunewise models pull {base.name}`",
            param="base_model",
        )
    return base.path
