"""The training loop: from `spec.json` to `result.json`, resumable at any step.

Everything that decides a weight is either in the spec, in the newest checkpoint, or a pure function of the two, so a
run that was killed ends in the same weights as one that was not. Knows nothing of jobs or of who started it.
"""

import hashlib
import logging
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tunewise.contracts.parity import PARITY_FILE, Parity
from tunewise.contracts.run import (
    CHECKPOINTS_DIR,
    RESULT_FILE,
    RunFailure,
    RunResult,
    StepMetrics,
)
from tunewise.train.checkpoint import directory_of, kept_epochs, prune, read_progress, save_checkpoint
from tunewise.train.criterion import Tally
from tunewise.train.journal import make_directory_whole, write_synced, write_whole
from tunewise.train.optimizer import set_learning_rate, trainable
from tunewise.train.parity import record
from tunewise.train.plan import draw_seed, step_rows, validation_sample
from tunewise.train.progress import Progress
from tunewise.train.rows import Loaded
from tunewise.train.schedule import learning_rate
from tunewise.train.session import Session
from tunewise.train.step import accumulate_gradients, clip_gradients, evaluate
from tunewise.train.tuned import restore, tuned_directory, tuned_weights, write_tuned

log = logging.getLogger(__name__)


def run_steps(session: Session, should_pause: Callable[[], bool]) -> None:
    """Train until the run is finished or is to pause; either way its newest state is in a checkpoint.

    Raises:
        TrainingError: loss_not_finite.
    """
    _announce(session)
    started = time.monotonic() - session.progress.seconds
    saved_at, saved_step = time.monotonic(), session.progress.step
    while not session.is_finished and not session.world.any(should_pause()):
        _one_step(session, started)
        ends_epoch = session.progress.step in session.progress.epoch_steps
        is_due = time.monotonic() - saved_at > session.spec.checkpoint_minutes * 60
        if ends_epoch or session.world.any(is_due):
            _save(session)
            saved_at, saved_step = time.monotonic(), session.progress.step
        if ends_epoch:
            _announce_checkpoint(session)
    if session.progress.step != saved_step:
        _save(session)


def _announce(session: Session) -> None:
    """Say what became of the rows, once; and what a kill between a checkpoint and its event left unsaid."""
    counts = session.train.counts
    if session.progress.events_seq == 0 and counts.trained < counts.rows + counts.truncated:
        session.journal.write(
            f"Of {counts.rows} training rows {counts.trained} are trained on: {counts.truncated} truncated to "
            f"{session.spec.max_tokens} tokens, {counts.dropped} dropped, {counts.nothing_to_train_on} without an "
            "answer to train on",
            level="warn",
        )
    if session.progress.step and session.progress.step in session.progress.epoch_steps:
        _announce_checkpoint(session)


def _one_step(session: Session, started: float) -> None:
    spec, step = session.spec, session.progress.step
    chosen = step_rows(len(session.train.units), spec.batch_size, seed=spec.seed, step=step)
    rate = learning_rate(
        step, session.total_steps, peak=spec.learning_rate, schedule=spec.schedule, warmup_ratio=spec.warmup_ratio
    )
    set_learning_rate(session.optimizer, rate)
    torch.manual_seed(draw_seed(seed=spec.seed, step=step, rank=session.world.rank))
    tally = accumulate_gradients(session.base, session.criterion, session.train.units, chosen, session.world)
    clip_gradients(trainable(session.model), spec.max_grad_norm)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    _record(session, tally, started)


def _record(session: Session, tally: Tally, started: float) -> None:
    """Count the step, validate where that is due, and tell."""
    before = session.progress
    step = before.step + 1
    opens_epoch, ends_epoch = before.step % session.steps_per_epoch == 0, step % session.steps_per_epoch == 0
    sampled = _validate(session, full=False) if step % session.spec.valid_every_steps == 0 else None
    full = _validate(session, full=True) if ends_epoch else None
    metrics = StepMetrics(
        step=step,
        total_steps=session.total_steps,
        train_loss=tally.loss,
        train_mean_token_accuracy=tally.accuracy,
        valid_loss=sampled.loss if sampled else None,
        valid_mean_token_accuracy=sampled.accuracy if sampled else None,
        full_valid_loss=full.loss if full else None,
        full_valid_mean_token_accuracy=full.accuracy if full else None,
        full_valid_bits_per_byte=_bits_per_byte(session.valid, full),
        tokens=before.tokens + tally.tokens,
        seconds=time.monotonic() - started,
        **_rewards("train", tally),
        **_rewards("full_valid", full),
    )
    session.journal.write(step_message(metrics), metrics=metrics)
    if session.trackers is not None:
        session.trackers.tell(metrics)
    session.progress = before.model_copy(
        update={
            "step": step,
            "seconds": metrics.seconds,
            "tokens": metrics.tokens,
            "supervised": before.supervised + tally.supervised,
            "epoch_loss_sum": tally.loss_sum + (0.0 if opens_epoch else before.epoch_loss_sum),
            "epoch_size": tally.size + (0.0 if opens_epoch else before.epoch_size),
            "events_size": session.journal.size,
            "events_seq": session.journal.seq,
        }
        | (_epoch_end(session, metrics) if ends_epoch else {})
    )


def _bits_per_byte(valid: Loaded | None, full: Tally | None) -> float | None:
    """The summed loss of all documents in bits over their bytes; None where there is no plain text."""
    if valid is None or full is None or not valid.text_bytes:
        return None
    return full.loss_sum / math.log(2) / valid.text_bytes


def _rewards(rows: str, tally: Tally | None) -> dict[str, float]:
    """The mean rewards of answers, where both kinds were there, under the names of a step's metrics."""
    if tally is None or not tally.chosen or not tally.rejected:
        return {}
    chosen, rejected = tally.chosen_reward / tally.chosen, tally.rejected_reward / tally.rejected
    means = {
        "chosen": chosen,
        "rejected": rejected,
        "margin": chosen - rejected,
        "accuracy": tally.wins / tally.compared,
    }
    return {f"{rows}_reward_{name}": mean for name, mean in means.items()}


def _epoch_end(session: Session, metrics: StepMetrics) -> dict[str, object]:
    """What changes in the progress when an epoch ends: the validation so far, and how long it has not improved."""
    before = session.progress
    ended: dict[str, object] = {"epoch_steps": (*before.epoch_steps, metrics.step), "epoch_metrics": metrics}
    loss = metrics.full_valid_loss
    if loss is None:
        return ended
    improved = before.best_valid_loss is None or loss < before.best_valid_loss
    return ended | {
        "valid_loss": loss,
        "valid_accuracy": metrics.full_valid_mean_token_accuracy,
        "valid_bits_per_byte": metrics.full_valid_bits_per_byte,
        "best_valid_loss": loss if improved else before.best_valid_loss,
        "best_step": metrics.step if improved else before.best_step,
        "stale_epochs": 0 if improved else before.stale_epochs + 1,
    }


def step_message(metrics: StepMetrics) -> str:
    """A step in the words of OpenAI's events (see the wire's published event log)."""
    losses = {
        "training loss": metrics.train_loss,
        "validation loss": metrics.valid_loss,
        "full validation loss": metrics.full_valid_loss,
    }
    told = ", ".join(f"{name}={loss:.2f}" for name, loss in losses.items() if loss is not None)
    return f"Step {metrics.step}/{metrics.total_steps}: {told}"


def _validate(session: Session, *, full: bool) -> Tally | None:
    if session.valid is None:
        return None
    units = session.valid.units
    size = len(units) if full else session.spec.valid_sample_rows
    sample = validation_sample(len(units), size, seed=session.spec.seed)
    return evaluate(session.base, session.criterion, units, sample, session.world)


def _save(session: Session) -> None:
    """Write a checkpoint, then remove those that nothing needs any more."""
    if not session.world.is_first:
        return
    progress = session.progress
    session.journal.sync()
    save_checkpoint(session.checkpoints, session.model, session.optimizer, session.spec, progress)
    best = {progress.best_step} if session.spec.early_stopping_patience and progress.best_step else set()
    prune(session.checkpoints, {progress.step, *progress.epoch_steps[-kept_epochs(session.spec) :], *best})


def _announce_checkpoint(session: Session) -> None:
    step = session.progress.step
    session.journal.write(
        f"Checkpoint created at step {step}",
        metrics=session.progress.epoch_metrics,
        checkpoint=f"{CHECKPOINTS_DIR}/{directory_of(session.checkpoints, step).name}",
    )
    session.journal.sync()


def finish(session: Session) -> None:
    """Write the tuned weights, with what they answer, then the result; with early stopping the best epoch's.

    Raises:
        TrainingError: unreadable_checkpoint, where the best epoch's cannot be read.
    """
    peak = session.world.sum([peak_memory_bytes()])[0]
    # Processes that hold the layers together compute together.
    if not (session.world.is_first or session.world.in_step):
        return
    spec, held = session.spec, _go_to_best(session)
    parity = _record_parity(session)
    if not session.world.is_first:
        return
    place = session.directory / tuned_directory(spec)
    make_directory_whole(place, lambda aside: _fill(aside, session, held, parity))
    with (place / tuned_weights(spec)).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kind = "model" if spec.weights == "full" else "adapter"
    written = {kind: place.name, f"{kind}_sha256": digest, "adapter_step": held.step}
    write_result(session.directory, result(session, held).model_copy(update=written | {"peak_memory_bytes": int(peak)}))


def _go_to_best(session: Session) -> Progress:
    """With early stopping, put the best epoch's weights in place; the progress at the weights that are there."""
    best_step = session.progress.best_step
    if not (session.spec.early_stopping_patience and best_step):
        return session.progress
    best = directory_of(session.checkpoints, best_step)
    restore(session.model, session.spec, best)
    return read_progress(best)


def _record_parity(session: Session) -> Parity | None:
    if session.trunk is not None:
        session.trunk.stop()
    started = time.monotonic()
    units = (session.valid or session.train).units
    parity = record(session.base, units, session.stop_ids, session.spec)
    log.info("recorded what the parity gate asks for in %.1f s", time.monotonic() - started)
    return parity


def _fill(directory: Path, session: Session, held: Progress, parity: Parity | None) -> None:
    write_tuned(directory, session.model, session.spec, held)
    if parity is not None:
        write_synced(directory / PARITY_FILE, parity.model_dump_json(indent=1).encode())


def result(session: Session, held: Progress, error: RunFailure | None = None) -> RunResult:
    """How the run stands, without an adapter; the losses are those of `held`, the progress at the weights' step."""
    progress = session.progress
    return RunResult(
        status="failed" if error else "succeeded",
        error=error,
        steps=progress.step,
        epochs=progress.step / session.steps_per_epoch,
        trained_tokens=progress.tokens,
        supervised_tokens=progress.supervised,
        rows=session.train.counts,
        train_loss=held.epoch_loss_sum / held.epoch_size if held.epoch_size else None,
        valid_loss=held.valid_loss,
        valid_mean_token_accuracy=held.valid_accuracy,
        valid_bits_per_byte=held.valid_bits_per_byte,
        seconds=progress.seconds,
        tokens_per_second=progress.tokens / progress.seconds if progress.seconds else 0.0,
        peak_memory_bytes=peak_memory_bytes(),
        adapter=None,
        adapter_sha256=None,
        adapter_step=None,
    )


def write_result(directory: Path, outcome: RunResult) -> None:
    """Write `result.json` by rename."""
    write_whole(directory / RESULT_FILE, outcome.model_dump_json(indent=1).encode())


def peak_memory_bytes() -> int:
    """The most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
