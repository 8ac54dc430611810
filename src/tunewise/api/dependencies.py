"""What every route is given: the platform, and who asks. Knows headers; what a key is worth is `jobs.access`'."""

import re
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeAlias

from fastapi import Depends, Request
from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers

from tunewise.contracts.jobs import Caller
from tunewise.jobs import access
from tunewise.jobs.completions import Asker, Relay
from tunewise.jobs.platform import Platform

# How a caller is named, as the OpenAPI document has it.
KEYS: dict[str, Any] = {
    "HTTPBearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key from `tunewise keys create`; any, while there is none.",
    },
    "APIKeyHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "api-key",
        "description": "The same key, as Azure's clients send it.",
    },
}
HEADERS = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": what,
        "schema": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": what, "title": name.title()},
    }
    for name, what in (
        ("OpenAI-Organization", "The organization; the key's, where keys are used."),
        ("OpenAI-Project", "The project; an admin's key may name any of its organization."),
    )
]


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


class Credentials(NamedTuple):
    """Who a request says that it is from, before anybody has looked whether that is so."""

    platform: Platform
    secret: str | None
    named_organization: str | None
    named_project: str | None
    host: str | None
    keys_required: bool


async def credentials_of(request: Request) -> Credentials:
    """What the headers say; read here, as parameters that FastAPI reads cost each start and each request more."""
    headers, state = request.headers, request.app.state
    return Credentials(
        platform=state.platform,
        secret=_secret_of(headers),
        named_organization=headers.get("OpenAI-Organization"),
        named_project=headers.get("OpenAI-Project"),
        host=_host_of(headers),
        keys_required=state.keys_required,
    )


def caller_of(credentials: Credentials) -> Caller:
    """Who asks.

    Raises:
        RequestError: see `jobs.access.identify`.
    """
    return access.identify(
        credentials.platform,
        credentials.secret,
        organization=credentials.named_organization,
        project=credentials.named_project,
        keys_required=credentials.keys_required,
        host=credentials.host,
    )


def _secret_of(headers: Headers) -> str | None:
    scheme, secret = get_authorization_scheme_param(headers.get("Authorization"))
    return secret if scheme.lower() == "bearer" and secret else headers.get("api-key")


def _host_of(headers: Headers) -> str | None:
    """What the request calls this server, without a port; whatever it is, it is taken apart."""
    named = headers.get("host")
    return None if named is None else re.sub(r":\d*$", "", named).strip("[]")


CallerDep: TypeAlias = Annotated[Caller, Depends(credentials_of)]
"""Who asks; only in the functions of an `api.route.Route`, which turns the credentials into the caller."""


async def asker_of(request: Request) -> Asker:
    """What tells who asks, to be called in the thread in which more is looked up."""
    return partial(caller_of, await credentials_of(request))


AskerDep: TypeAlias = Annotated[Asker, Depends(asker_of)]
