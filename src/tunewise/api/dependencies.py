"""What every route is given: the platform, and who asks. Knows headers; what a key is worth is `jobs.access`'."""

import re
from typing import Annotated, TypeAlias

from fastapi import Depends, Header, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from tunewise.api.relay import Relay
from tunewise.contracts.jobs import Caller
from tunewise.jobs import access
from tunewise.jobs.platform import Platform

_bearer = HTTPBearer(auto_error=False, description="A key from `tunewise keys create`; any, while there is none.")
_api_key = APIKeyHeader(name="api-key", auto_error=False, description="The same key, as Azure's clients send it.")


async def platform_of(request: Request) -> Platform:
    """The platform that `create_app` was given."""
    platform: Platform = request.app.state.platform
    return platform


PlatformDep: TypeAlias = Annotated[Platform, Depends(platform_of)]


async def relay_of(request: Request) -> Relay:
    """What relays completions to hosted models."""
    relay: Relay = request.app.state.relay
    return relay


RelayDep: TypeAlias = Annotated[Relay, Depends(relay_of)]


def caller_of(
    request: Request,
    platform: PlatformDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    api_key: Annotated[str | None, Security(_api_key)],
    organization: Annotated[
        str | None, Header(alias="OpenAI-Organization", description="The organization; the key's, where keys are used.")
    ] = None,
    project: Annotated[
        str | None,
        Header(alias="OpenAI-Project", description="The project; an admin's key may name any of its organization."),
    ] = None,
) -> Caller:
    """Who asks.

    Raises:
        RequestError: see `jobs.access.identify`.
    """
    return access.identify(
        platform,
        bearer.credentials if bearer else api_key,
        organization=organization,
        project=project,
        keys_required=request.app.state.keys_required,
        host=_host_of(request),
    )


def _host_of(request: Request) -> str | None:
    """What the request calls this server, without a port; whatever it is, it is taken apart."""
    named = request.headers.get("host")
    return None if named is None else re.sub(r":\d*$", "", named).strip("[]")


CallerDep: TypeAlias = Annotated[Caller, Depends(caller_of)]
