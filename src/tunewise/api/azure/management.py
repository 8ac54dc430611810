"""Azure's resource manager, as far as deployments need it: PUT, GET, LIST and DELETE under `/subscriptions/...`.

The paths, the bodies and the states are those that `azure-mgmt-cognitiveservices` sends and reads. Knows the wire
only: deployments are `jobs.deployments`', and whether they are ready is `jobs.provisioning`'s.
"""

import hashlib
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from tunewise.api.dependencies import CallerDep, PlatformDep
from tunewise.api.route import Route
from tunewise.api.texts import Id, Label, Line, PathText
from tunewise.contracts.jobs import Deployment
from tunewise.jobs import deployments
from tunewise.jobs.deployments import Wanted
from tunewise.jobs.hosting import find_model
from tunewise.jobs.provisioning import Provisioner, Provisioning

PROVIDER = "Microsoft.CognitiveServices/accounts"
ACCOUNT_PATH = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}/{{account}}"
router = APIRouter(prefix=ACCOUNT_PATH, tags=["azure deployments"], route_class=Route)

Part: TypeAlias = Annotated[
    str, Path(max_length=90, pattern=r"^[\w.()-]+$", description="Any: it is a name here.", examples=["tunewise"])
]
Name: TypeAlias = Annotated[
    str, Path(max_length=64, pattern=r"^[\w.-]+$", description="The deployment's name.", examples=["owl"])
]
ApiVersion: TypeAlias = Annotated[
    str, Query(alias="api-version", max_length=64, description="Any date; Azure's clients send one.")
]


async def scope_of(subscription: Part, group: Part, account: Part, api_version: ApiVersion) -> str:
    """The account that the path names."""
    return f"{subscription}/{group}/{account}"


ScopeDep: TypeAlias = Annotated[str, Depends(scope_of)]


class ModelReference(BaseModel):
    """Which model: a tuned model or checkpoint by name or id, or a base model."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: Id
    format: Label = "OpenAI"
    version: Label = "1"
    source: PathText | None = None
    publisher: Label | None = None
    sourceAccount: PathText | None = None  # noqa: N815


class WantedProperties(BaseModel):
    """What a deployment is of. Azure's policies and capacities are taken and have no effect here."""

    model_config = ConfigDict(extra="allow")

    model: ModelReference


class WantedSku(BaseModel):
    """Azure's price tier; kept and told, and of no effect here."""

    model_config = ConfigDict(extra="forbid")

    name: Label = "Standard"
    capacity: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = 1
    tier: Label | None = None
    size: Label | None = None
    family: Label | None = None


class WantedDeployment(BaseModel):
    """The body of PUT."""

    model_config = ConfigDict(extra="forbid")

    sku: WantedSku = WantedSku()
    properties: WantedProperties
    tags: Annotated[dict[Line, Line], Field(max_length=50)] | None = None


class DeploymentProperties(BaseModel):
    """How a deployment stands."""

    model_config = ConfigDict(protected_namespaces=())

    model: dict[str, str]
    provisioningState: Provisioning  # noqa: N815
    capabilities: dict[str, str]
    rateLimits: list[dict[str, Any]]  # noqa: N815


class DeploymentResource(BaseModel):
    """A deployment in the resource manager's shape."""

    id: str
    name: str
    type: Literal["Microsoft.CognitiveServices/accounts/deployments"]
    sku: dict[str, str | int]
    properties: DeploymentProperties
    etag: str


class DeploymentList(BaseModel):
    """Every deployment of an account; there are no further pages."""

    value: list[DeploymentResource]
    nextLink: str | None = Field(default=None)  # noqa: N815


async def provisioner_of(request: Request) -> Provisioner:
    """The provisioner that the application runs with."""
    provisioner: Provisioner = request.app.state.provisioner
    return provisioner


ProvisionerDep: TypeAlias = Annotated[Provisioner, Depends(provisioner_of)]


@router.put(
    "/deployments/{name}",
    summary="Create or update a deployment",
    status_code=201,
    responses={200: {"model": DeploymentResource, "description": "It existed, and was changed."}},
)
async def put_deployment(
    scope: ScopeDep,
    name: Name,
    body: WantedDeployment,
    platform: PlatformDep,
    caller: CallerDep,
    provisioner: ProvisionerDep,
    response: Response,
) -> DeploymentResource:
    """Keep the name and host the model at once; poll GET until `provisioningState` is no longer `Creating`."""
    made, is_new = await run_in_threadpool(deployments.put, platform, caller, _wanted(scope, name, body))
    provisioner.begin(made, await run_in_threadpool(find_model, platform, caller, made.model))
    response.status_code = 201 if is_new else 200
    return resource(made, provisioner.state(made))


@router.get("/deployments/{name}", summary="Retrieve a deployment")
async def get_deployment(
    scope: ScopeDep, name: Name, platform: PlatformDep, caller: CallerDep, provisioner: ProvisionerDep
) -> DeploymentResource:
    """The deployment, and whether it is ready."""
    found = await run_in_threadpool(deployments.retrieve, platform, caller, scope, name)
    return resource(found, provisioner.state(found))


@router.get("/deployments", summary="List the deployments of an account")
async def list_deployments(
    scope: ScopeDep, platform: PlatformDep, caller: CallerDep, provisioner: ProvisionerDep
) -> DeploymentList:
    """Oldest first."""
    found = await run_in_threadpool(deployments.list_deployments, platform, caller, scope)
    return DeploymentList(value=[resource(one, provisioner.state(one)) for one in found])


@router.delete(
    "/deployments/{name}",
    summary="Delete a deployment; its model stays",
    status_code=200,
    response_class=Response,
    responses={204: {"description": "There was none."}},
)
def delete_deployment(scope: ScopeDep, name: Name, platform: PlatformDep, caller: CallerDep) -> Response:
    """The name is free again."""
    was_there = deployments.delete(platform, caller, scope, name)
    return Response(status_code=200 if was_there else 204)


def resource(deployment: Deployment, state: Provisioning) -> DeploymentResource:
    """A deployment in the resource manager's shape."""
    subscription, group, account = deployment.scope.split("/")
    place = ACCOUNT_PATH.format(subscription=subscription, group=group, account=account)
    tag = hashlib.sha256(deployment.model_dump_json().encode()).hexdigest()[:32]
    model = {"format": deployment.model_format, "name": deployment.model, "version": deployment.model_version}
    return DeploymentResource(
        id=f"{place}/deployments/{deployment.name}",
        name=deployment.name,
        type="Microsoft.CognitiveServices/accounts/deployments",
        sku={"name": deployment.sku, "capacity": deployment.capacity},
        properties=DeploymentProperties(
            model=model,
            provisioningState=state,
            capabilities={"chatCompletion": "true", "fineTune": "true"},
            rateLimits=[],
        ),
        etag=f'"{tag}"',
    )


def _wanted(scope: str, name: str, body: WantedDeployment) -> Wanted:
    model = body.properties.model
    return Wanted(
        name=name,
        scope=scope,
        model=model.name,
        model_format=model.format,
        model_version=model.version,
        sku=body.sku.name,
        capacity=body.sku.capacity or 1,
    )
