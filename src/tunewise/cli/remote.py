"""A running server, as commands reach it: the openai SDK, its failures as ours, its times as people read them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias

import openai
import typer
from openai import OpenAI
from rich.console import Console
from rich.table import Table

from tunewise.errors import RequestError
from tunewise.settings import get_settings

WIDE = 10_000
Url: TypeAlias = Annotated[
    str | None, typer.Option("--url", help="The server's address, ending in /v1; by default TUNEWISE_URL.")
]
JobId: TypeAlias = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as `tunewise jobs list` shows it.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@contextmanager
def server(url: str | None) -> Iterator[OpenAI]:
    """A client of the server at `url`, or at the one that the settings name.

    Raises:
        RequestError: server_unreachable, or what the server answered.
    """
    settings = get_settings()
    where = url or settings.url
    # The SDK insists on a key; a server without keys takes any.
    key = settings.api_key.get_secret_value() if settings.api_key else "none"
    with OpenAI(base_url=where, api_key=key) as client:
        try:
            yield client
        except openai.APIConnectionError as error:
            message = f"No server answers at {where}: start one with `tunewise up`, or name another with --url"
            raise RequestError("server_unreachable", message, param="--url") from error
        except openai.APIStatusError as error:
            raise _refusal(error) from error


def _refusal(error: openai.APIStatusError) -> RequestError:
    body: dict[str, Any] = error.body if isinstance(error.body, dict) else {}
    return RequestError(body.get("code") or "request_failed", body.get("message") or error.message)


def moment(seconds: int | None) -> str:
    """A Unix time as a local one; nothing for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def print_table(table: Table) -> None:
    """Print a table without shortening any cell: ids are there to be copied."""
    Console(width=Console(width=WIDE).measure(table).maximum).print(table)
