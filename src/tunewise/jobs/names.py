"""Model names: which base model or tuned model a name means, and what a new tuned model is called.

A name is, in this order: a deployment, a tuned model or checkpoint in either dialect, an alias, a base model.
"""

import secrets
import string
from typing import NamedTuple

from sqlalchemy.orm import Session

from tunewise import catalogue, embedding_models
from tunewise.contracts.jobs import Caller, Job, TunedModel
from tunewise.errors import RequestError
from tunewise.settings import Settings
from tunewise.store import models

_SHORT_ID = string.ascii_letters + string.digits


class Resolved(NamedTuple):
    """What a name means: the base model, and the tuned model on it, if it is one."""

    base: str
    tuned: TunedModel | None

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings, and writes no text."""
        return self.tuned is None and embedding_models.knows(self.base)


def resolve(session: Session, settings: Settings, caller: Caller, name: str) -> Resolved:
    """Find what the caller means by a model name.

    Raises:
        RequestError: model_not_found, with the names that there are.
    """
    deployed = models.deployment(session, caller.project, name)
    name = deployed.model if deployed else name
    for meant in (name, settings.aliases.get(name, name)):
        tuned = models.find(session, caller.project, meant)
        if tuned is not None:
            return Resolved(tuned.base, tuned)
        # One of embeddings that is not installed is found too: whoever asks it is told how to install it.
        if meant in base_names(settings) or embedding_models.knows(meant):
            return Resolved(meant, None)
    names = [
        *base_names(settings),
        *settings.aliases,
        *(model.name for model in models.visible(session, caller.project)),
    ]
    raise RequestError(
        "model_not_found",
        f"The model {name!r} does not exist or you do not have access to it. The models here are: {', '.join(names)}",
        param="model",
    )


def base_names(settings: Settings) -> list[str]:
    """What can be asked and was not tuned here: base models, those of embeddings, those that another server has."""
    here = [*catalogue.names_here(settings), *embedding_models.names_here()]
    return [*here, *(name for name in settings.models_elsewhere if name not in here)]


class NewNames(NamedTuple):
    """What one set of weights is called under both dialects."""

    name: str
    azure_name: str


def final_names(job: Job) -> NewNames:
    """The name of the model that a job makes; it names the base model, also where a tuned one is tuned further."""
    name = f"ft:{job.request.base}:{job.organization}:{job.request.suffix or ''}:{_short_id()}"
    return NewNames(name=name, azure_name=azure_model_name(job))


def azure_model_name(job: Job) -> str:
    """What Azure calls the model that a job makes: known as soon as the job is."""
    suffix = f"-{job.request.suffix}" if job.request.suffix else ""
    return f"{job.request.base}.ft-{job.id.removeprefix('ftjob-')}{suffix}"


def checkpoint_names(job: Job, step: int) -> NewNames:
    """The name of a job's checkpoint; its short id is its own, as OpenAI's are."""
    final = final_names(job)
    return NewNames(name=f"{final.name}:ckpt-step-{step}", azure_name=f"{final.azure_name}:ckpt-step-{step}")


def short_name(model: TunedModel) -> str:
    """A tuned model's name without what it shares with others: `SUFFIX:ID`, with `:ckpt-step-N` for a checkpoint."""
    return model.name.removeprefix(f"ft:{model.base}:{model.organization}:").strip(":")


def _short_id() -> str:
    return "".join(secrets.choice(_SHORT_ID) for _ in range(8))
