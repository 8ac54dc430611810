"""Why a plan is what it is: each number of a run's manifest, with the rule, or the wish, that it comes from.

A pure function of the request, the manifest, the rows' counts and the machine; the rules themselves are `planning`'s.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tunewise import planning
from tunewise.contracts.check import FittedRows
from tunewise.contracts.fine_tuning import PREFERENCES, Method, TrainingRequest
from tunewise.contracts.run import TrainSpec
from tunewise.machine import Machine


class Reason(NamedTuple):
    """One number of a plan, and where it comes from."""

    name: str
    value: str
    why: str


def explain(
    request: TrainingRequest, spec: TrainSpec, machine: Machine, fitted: FittedRows, measured: Sequence[Reason] = ()
) -> tuple[Reason, ...]:
    """Why each number of `spec` is what it is. `measured`: what was found out by trying; told at the end."""
    return (
        *_hyperparameter_reasons(request, spec, fitted.rows),
        *_adapter_reasons(request, spec),
        *_machine_reasons(request, spec, machine, fitted.longest),
        *measured,
    )


def _hyperparameter_reasons(request: TrainingRequest, spec: TrainSpec, rows: int) -> tuple[Reason, ...]:
    asked = request.method.hyperparameters
    epochs = "three, yet at least 100 and at most 25,000 rows seen: the default that OpenAI's cookbook gives"
    unit = "rows"
    if request.method.type == "pretraining":
        unit, epochs = "blocks", "text is read once, as there is much of it"
    batch = (
        f"up to {planning.FULL_BATCH} rows fill a CPU's matrix units; small files get "
        f"{planning.LEAST_STEPS_PER_EPOCH} steps an epoch, "
        f"large ones batches of {planning.LEGACY_BATCH_SHARE:.1%} of their rows, as OpenAI's legacy guide had it"
    )
    beta = planning.beta_of(spec.objective)
    reasons = [
        Reason("method", spec.objective.type, "as asked for" if request.method != Method() else "what is done mostly"),
        _reason("n_epochs", spec.n_epochs, asked.n_epochs, f"{rows:,} {unit}: {epochs}"),
        _reason("batch_size", spec.batch_size, asked.batch_size, f"{rows:,} {unit}: {batch}"),
        Reason(
            "steps",
            f"{planning.total_steps(spec, rows):,}",
            "epochs times batches, the last one of an epoch however small",
        ),
        Reason("learning_rate", f"{spec.learning_rate:g}", _rate_reason(request)),
    ]
    if beta is not None:
        reasons.append(_reason("beta", beta, request.method.beta, "what TRL takes, and most of the method's papers"))
    return tuple(reasons)


def _rate_reason(request: TrainingRequest) -> str:
    asked = request.method.hyperparameters.learning_rate_multiplier
    parts = [f"{planning.BASE_LEARNING_RATE:g}, which served the shipped example well"]
    if request.method.type in PREFERENCES:
        parts.append(f"times {planning.PREFERENCE_RATE_SHARE:g}: preferences move a model that can speak already")
    if request.weights == "full":
        parts.append(f"times {planning.FULL_RATE_SHARE:g}: every weight moves")
    if asked != "auto":
        parts.append(f"times {asked:g}, the multiplier that is asked for")
    return ", ".join(parts)


def _adapter_reasons(request: TrainingRequest, spec: TrainSpec) -> tuple[Reason, ...]:
    if spec.weights == "full":
        return (Reason("weights", "full", "as asked for: every weight is trained, and there is no adapter"),)
    rank = "the default of this program; a higher rank learns more and costs more"
    scale = "twice the rank, so that the scale of what is added does not depend on it"
    return (
        _reason("lora_rank", spec.lora.rank, request.lora.rank, rank),
        _reason("lora_alpha", spec.lora.alpha, request.lora.alpha, scale),
    )


def _machine_reasons(request: TrainingRequest, spec: TrainSpec, machine: Machine, longest: int) -> tuple[Reason, ...]:
    parts = "tokens computed at once, or one longer row: matrix products at full speed, in bounded memory"
    twice = (
        f"activations are kept where they fit: about {planning.memory(spec, longest) / 1e9:.1f} GB in all are needed "
        f"with the longest row of {longest:,} tokens, of {machine.memory_bytes / 1e9:.1f} GB; else computed twice"
    )
    return (
        _reason("dtype", spec.dtype, request.dtype, _dtype_reason(request, machine)),
        Reason("part_tokens", f"{planning.PART_TOKENS:,}", parts),
        _reason("activation_checkpointing", spec.activation_checkpointing, request.activation_checkpointing, twice),
        Reason("threads", str(spec.threads), "one for each physical core: a second one on a core slows products down"),
    )


def _dtype_reason(request: TrainingRequest, machine: Machine) -> str:
    if request.weights == "full":
        return "weights that are trained are held so: bfloat16 would round most of a step away"
    if machine.bfloat16:
        return "this CPU has bfloat16 instructions, and half the bytes are read"
    return "this CPU has no bfloat16 instructions: emulated, it would be 5 to 10 times slower"


def _reason(name: str, value: object, asked: object, rule: str) -> Reason:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return Reason(name, shown, rule if asked == "auto" else "as asked for")
