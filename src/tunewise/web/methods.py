"""What the studio calls the methods of training, and presets of their hyperparameters."""

from typing import NamedTuple

from tunewise.contracts.fine_tuning import Hyperparameters, MethodType
from tunewise.web.words import said, t


class Described(NamedTuple):
    """A method in words: what it is called, and what rows it learns from."""

    title: str
    about: str


class Preset(NamedTuple):
    """A choice of hyperparameters under a name."""

    title: str
    hyperparameters: Hyperparameters


METHODS: dict[MethodType, Described] = {
    "supervised": Described(
        said("Learn from good answers (supervised)"), said("Rows are chats; the model learns to answer as they do.")
    ),
    "dpo": Described(
        said("Learn from pairs of answers (DPO)"),
        said("Rows have a better and a worse answer; the model is held near to where it began."),
    ),
    "orpo": Described(
        said("Learn answers and preferences at once (ORPO)"),
        said("Rows have a better and a worse answer; takes less memory than DPO."),
    ),
    "kto": Described(
        said("Learn from good and bad answers (KTO)"),
        said("Rows have a better and a worse answer; each counts by itself, as wanted or unwanted."),
    ),
    "pretraining": Described(
        said("Read plain text (continued pre-training)"),
        said("Rows are texts of your field, each under the name text."),
    ),
}
PRESETS = {
    "quick": Preset("Quick: one epoch", Hyperparameters(n_epochs=1)),
    "balanced": Preset("Balanced: chosen for your data", Hyperparameters()),
    "thorough": Preset(
        "Thorough: more epochs, smaller steps", Hyperparameters(n_epochs=5, learning_rate_multiplier=0.5)
    ),
}


def titles() -> dict[MethodType, str]:
    """The methods by what they are called on the page."""
    return {kind: t(described.title) for kind, described in METHODS.items()}
