"""An engine that somebody else runs: any server that speaks OpenAI's API, and vLLM's for adapters where it has it.

Nothing is started and nothing stopped; what we load there, we unload. Knows that server's names for our models.
"""

import httpx

from tunewise.addresses import is_local
from tunewise.errors import RequestError, ServingError
from tunewise.jobs.model_server import Door, Elsewhere, ModelServer, Wanted
from tunewise.settings import OpenAIEngine, secret

CONNECT_SECONDS = 5.0
PATIENCE_SECONDS = 1.0  # a connection that fails is tried once more after that


async def start(config: OpenAIEngine, wanted: Wanted) -> ModelServer:
    """See that the server is there and has the model.

    Raises:
        RequestError: model_unavailable, naming the models that the server has.
        ServingError: it is not there, or its key is not.
    """
    calls = config.models.get(wanted.name, wanted.name)
    if wanted.directory is not None and wanted.name not in config.models:
        raise RequestError(
            "model_unavailable",
            f"The model {wanted.name!r} cannot be hosted: every weight of it, or of its base model, was tuned, and "
            f"{config.base_url} can be given adapters only. Host {wanted.directory} there, and name it in the engine's "
            "`models`; or let it be hosted here (TUNEWISE_ENGINE unset).",
            param="model",
        )
    shown = headers(config)
    door = Door(config.base_url, client(config), calls, shown, PATIENCE_SECONDS)
    server = ModelServer(Elsewhere(), door)
    there = await _names(server, door)
    if calls not in there:
        await door.client.aclose()
        raise RequestError(
            "model_unavailable",
            f"The model {wanted.name!r} cannot be hosted: {config.base_url} has no model {calls!r}; it has "
            f'{", ".join(there)}. Say in TUNEWISE_ENGINE which of them it is: "models": {{"{wanted.name}": "..."}}.',
            param="model",
        )
    return server


def client(config: OpenAIEngine) -> httpx.AsyncClient:
    """A client of the server; a proxy that is set for the internet does not stand before one on this machine."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(config.timeout_seconds, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0),
        headers={"Accept-Encoding": "identity"},
        trust_env=not is_local(config.base_url),
    )


def headers(config: OpenAIEngine) -> dict[str, str]:
    """What shows the key, where one is needed.

    Raises:
        ServingError: there is none.
    """
    if config.api_key_env is None:
        return {}
    key = secret(config.api_key_env)
    if not key:
        raise ServingError(
            "serve_failed",
            f"engine: {config.base_url} needs a key, but the environment variable {config.api_key_env} is not set; set "
            "it where Tunewise is started",
        )
    return {"authorization": f"Bearer {key}"}


async def _names(server: ModelServer, door: Door) -> list[str]:
    """The models that the server has."""
    try:
        answer = await door.client.get(f"{door.base_url}/models", headers=dict(door.headers))
        names = [str(model["id"]) for model in answer.raise_for_status().json()["data"]]
    except httpx.TransportError as error:
        await door.client.aclose()
        raise server.gone(door.calls) from error
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
        await door.client.aclose()
        raise ServingError(
            "serve_failed",
            f"{door.base_url}/models gave no list of models ({error}); is that the address of an OpenAI-compatible "
            "server, ending in /v1, and does its key fit?",
        ) from error
    return names
