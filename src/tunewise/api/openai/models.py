"""/v1/models: which there are; deleting a tuned one."""

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Path

from tunewise.api.dependencies import CallerDep, PlatformDep
from tunewise.api.openai import wire
from tunewise.api.route import Route
from tunewise.api.texts import ID_CHARS
from tunewise.jobs import models

router = APIRouter(prefix="/models", tags=["models"], route_class=Route)

ModelName: TypeAlias = Annotated[
    str,
    Path(
        max_length=ID_CHARS,
        description="The model's name; colons may stand as they are.",
        examples=["ft:smollm2-135m-instruct:o:s:1"],
    ),
]


@router.get("", summary="List models")
def list_models(platform: PlatformDep, caller: CallerDep) -> wire.ModelList:
    """Base models, aliases, and the project's tuned models and checkpoints."""
    return wire.ModelList(data=[wire.model_object(model) for model in models.list_models(platform, caller)])


@router.get("/{model:path}", summary="Look up a model")
def retrieve_model(model: ModelName, platform: PlatformDep, caller: CallerDep) -> wire.ModelObject:
    """The model, under the name that was asked for."""
    return wire.model_object(models.retrieve(platform, caller, model))


@router.delete("/{model:path}", summary="Delete a tuned model")
def delete_model(model: ModelName, platform: PlatformDep, caller: CallerDep) -> wire.ModelDeleted:
    """Refused while it has a deployment, or a job tunes it further."""
    models.delete(platform, caller, model)
    return wire.ModelDeleted(id=model)
