"""`python -m tunewise.serve`: host one base model, or one of embeddings, until told to stop.

Knows flags and the process's life; everything else is put together here and done elsewhere. SIGTERM and SIGINT drain:
no new connections, requests under way are answered, then the process ends. So does the end of the process that
`--exit-with-parent` names, as one that is killed with -9 cannot stop its children.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
import uvicorn
from fastapi import FastAPI

from tunewise.data.template import Template
from tunewise.errors import ConfigError, TunewiseError
from tunewise.serve.adapters import NO_ADAPTER
from tunewise.serve.embedder import Embedder
from tunewise.serve.embeddings import Embeddings, create_embeddings_app
from tunewise.serve.engine import Engine
from tunewise.serve.house import House
from tunewise.serve.http import create_app
from tunewise.serve.mailbox import Mailbox
from tunewise.serve.network import Network, best_dtype
from tunewise.serve.parity import replay
from tunewise.serve.scheduler import Limits
from tunewise.serve.threads import aside

RUNNING_MAX = 64  # answers computed at once
WAITING_MAX = 512  # requests beyond them before 429
PROMPT_TOKENS = 256  # of prompts per step: matrix products are as fast as they get, and answers wait little
KV_SHARE, PREFIX_SHARE, ADAPTER_SHARE = 0.4, 0.1, 0.1  # of the memory available once the model is loaded
PREFIX_BYTES_MAX = 512 << 20  # some 11,000 tokens of SmolLM2-135M in float32; single prompts fill the rest to no use
DRAIN_SECONDS = 120
PARENT_POLL_SECONDS = 1.0
SWITCH_SECONDS = 0.0005  # the event loop must not keep the engine's thread waiting for Python's default 5 ms


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; gives the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        app, engine = _built(options)
        _survive_signals()
        return asyncio.run(_serve(app, engine, options))
    except TunewiseError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return error.exit_code


def _built(options: argparse.Namespace) -> tuple[FastAPI, Engine | None]:
    """The application, and what generates behind it; None where it makes embeddings."""
    if options.embeddings:
        return create_embeddings_app(Embeddings(options.name, Embedder(options.model), options.max_waiting)), None
    house = aside(lambda: build(options))
    return create_app(house), house.engine


def build(options: argparse.Namespace) -> House:
    """Load the model and its adapters.

    Raises:
        TunewiseError: something named in the options cannot be used.
    """
    dtype = best_dtype() if options.dtype == "auto" else getattr(torch, options.dtype)
    template = Template.load(options.model)
    network = Network(options.model, dtype)
    network.warm_up()
    replay(network, NO_ADAPTER, options.name, options.model, template.decode)
    mailbox = Mailbox()
    engine = Engine(network, template.decode, template.stop_ids, _limits(options), mailbox.deliver)
    for name, path in options.adapter:
        engine.load_before_start(name, path)
    return House(options.name, template, engine, mailbox)


def _survive_signals() -> None:
    """Uvicorn raises a signal again once it has drained; a process that did as it was told ends with 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)


async def _serve(app: FastAPI, engine: Engine | None, options: argparse.Namespace) -> int:
    # With the protocol named, asyncio switches Nagle's algorithm off; without, each answer waits 40 ms for an ACK.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((options.host, options.port))
        except OSError as error:
            where = f"{options.host}:{options.port}"
            raise ConfigError("address_unusable", f"cannot listen on {where}: {error}", param="--port") from error
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=DRAIN_SECONDS)
        server = uvicorn.Server(config)
        if engine is not None:
            engine.on_failure = lambda: setattr(server, "should_exit", True)
        serving = asyncio.create_task(server.serve([listening]))
        leaving = asyncio.create_task(_leave_with_parent(options.exit_with_parent, server))
        while not server.started and not serving.done():
            await asyncio.sleep(0.002)
        if server.started:
            _announce(options, listening.getsockname()[1])
        await serving
        leaving.cancel()
    return 0 if engine is None or engine.failure is None else engine.failure.exit_code


async def _leave_with_parent(parent: int | None, server: uvicorn.Server) -> None:
    """Drain once `parent` is no longer the parent; a child whose parent is gone gets another one at once."""
    if parent is None:
        return
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_POLL_SECONDS)
    logging.getLogger("tunewise.serve").info("process %d, which started this one, is gone", parent)
    server.should_exit = True


def _announce(options: argparse.Namespace, port: int) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    ready = {"base_url": f"http://{host}:{port}/v1", "pid": os.getpid()}
    logging.getLogger("tunewise.serve").info("hosting %s at %s", options.name, ready["base_url"])
    if options.ready_file:
        part = options.ready_file.with_name(options.ready_file.name + ".part")
        part.write_text(json.dumps(ready), encoding="utf-8")
        part.replace(options.ready_file)


def _limits(options: argparse.Namespace) -> Limits:
    available = psutil.virtual_memory().available
    prefix = min(int(available * PREFIX_SHARE), PREFIX_BYTES_MAX) if options.prefix_cache else 0
    asked = options.adapter_memory_mb
    adapters = int(available * ADAPTER_SHARE) if asked is None else asked << 20
    kv = int(available * KV_SHARE)
    return Limits(options.max_running, options.max_waiting, PROMPT_TOKENS, kv, prefix, adapters)


def _named_adapter(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, Path(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tunewise.serve", description="Host one base model over HTTP.")
    parser.add_argument("--model", type=Path, required=True, help="directory of safetensors, tokenizer and template")
    parser.add_argument("--name", required=True, help="the model name that clients ask for")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--embeddings", action="store_true", help="the model makes embeddings and writes no text")
    parser.add_argument("--adapter", type=_named_adapter, action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument(
        "--ready-file", type=Path, help="JSON with base_url and pid, written once requests are answered"
    )
    parser.add_argument("--max-running", type=int, default=RUNNING_MAX, help="answers computed at once")
    parser.add_argument("--max-waiting", type=int, default=WAITING_MAX, help="further requests before 429")
    parser.add_argument(
        "--adapter-memory-mb", type=int, help="what adapters may take; beyond it, the least recently used go to disk"
    )
    parser.add_argument("--no-prefix-cache", dest="prefix_cache", action="store_false")
    parser.add_argument(
        "--exit-with-parent", type=int, metavar="PID", help="stop as on SIGTERM once this process is not the parent"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
