"""Training options that do not go together, said before anything is checked or trained.

Jobs of the API and `tunewise.yaml` are held to the same. Knows what was asked for and which packages are installed;
no files.
"""

from typing import NamedTuple

from tunewise.contracts.fine_tuning import LoraRequest, TrainingOptions
from tunewise.settings import missing_packages


class Conflict(NamedTuple):
    """What does not fit: an error's code and words, and the option's name."""

    code: str
    option: str
    message: str


def conflict(asked: TrainingOptions, *, has_validation: bool, parent: str | None) -> Conflict | None:
    """The first conflict among the options, if there is one. `parent`: the tuned model that is tuned further."""
    if asked.early_stopping_patience is not None and not has_validation:
        return Conflict(
            "early_stopping_needs_validation",
            "early_stopping_patience",
            "stopping early needs a validation file; add one, or leave early_stopping_patience out",
        )
    for tracker in missing_packages(*asked.trackers):
        return Conflict(
            "tracker_unavailable",
            "trackers",
            f"{tracker!r} needs a package that is not installed here; `pip install 'tunewise[{tracker}]'`, or leave it "
            "out: every step is among the job's events",
        )
    if asked.sharding == "fsdp" and asked.processes == 1:
        return Conflict(
            "conflicting_parameters",
            "sharding",
            "'fsdp' shares the weights among several processes, and there is one; set processes, or leave sharding out",
        )
    if asked.weights == "full" and asked.lora != LoraRequest():
        return Conflict(
            "conflicting_parameters",
            "lora",
            "weights is 'full', so that there is no adapter; leave lora out, or choose weights 'lora'",
        )
    return _of_weights(asked) or _with_parent(asked, parent)


def _of_weights(asked: TrainingOptions) -> Conflict | None:
    lora = asked.lora
    if asked.weights == "full" and asked.dtype == "bfloat16":
        return Conflict(
            "conflicting_parameters",
            "dtype",
            "weights that are trained are float32; leave dtype out, or choose weights 'lora'",
        )
    if asked.weights != "lora" and asked.sharding == "fsdp":
        return Conflict(
            "conflicting_parameters",
            "sharding",
            "'fsdp' shares frozen weights of their own number format; leave sharding out, or choose weights 'lora'",
        )
    if asked.weights == "full" and asked.parent_use == "stack":
        return Conflict(
            "conflicting_parameters",
            "parent_use",
            "'stack' leaves a tuned model's adapter as it is, and with weights 'full' there is none; leave it out",
        )
    if asked.weights == "qlora" and (lora.init != "default" or asked.parent_use == "stack"):
        return Conflict(
            "conflicting_parameters",
            "weights",
            "'qlora' goes neither with lora.init nor with parent_use 'stack'; leave them out, or choose weights 'lora'",
        )
    if lora.dora and (asked.parent_use == "stack" or (lora.dropout and lora.init != "default")):
        return Conflict(
            "conflicting_parameters",
            "lora",
            "lora.dora goes not with parent_use 'stack', nor with lora.init and lora.dropout both; leave one out",
        )
    return None


def _with_parent(asked: TrainingOptions, parent: str | None) -> Conflict | None:
    if parent is None and asked.parent_use == "stack":
        return Conflict(
            "conflicting_parameters",
            "parent_use",
            "'stack' puts a new adapter on a tuned model's, and the model is a base model; leave parent_use out",
        )
    if parent is not None and asked.parent_use == "continue" and _shape(asked.lora) != LoraRequest():
        return Conflict(
            "conflicting_parameters",
            "lora",
            f"the adapter of {parent} trains on, in its own shape; leave lora out, or choose parent_use 'stack'",
        )
    return None


def _shape(lora: LoraRequest) -> LoraRequest:
    """The adapter's shape alone: LoRA+ is the optimizer's affair."""
    return lora.model_copy(update={"plus_ratio": LoraRequest().plus_ratio})
