"""What the API costs on the way to a hosted model: requests a second and median latency through it and without it.

Both sides ask the same model server, started by the API, for the same short completions on connections of their own
that stay open; rounds alternate, so that both see the same machine. The model is as small as can be: what is measured
is the way, not the answer.

    python benchmarks/proxy.py --model DIR
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx
import psutil

ROUNDS, REQUESTS, CONCURRENT, SINGLES = 5, 200, 16, 50
START_SECONDS = 180.0
NAME = "bench/proxied"


class Side(NamedTuple):
    """Medians over the rounds: requests a second at `CONCURRENT`, and milliseconds of one request alone."""

    requests_per_second: float
    p50_ms: float


def main() -> None:
    """Measure both sides and print; the last line is one JSON object."""
    options = _options()
    with tempfile.TemporaryDirectory() as home, _api(Path(home), options.model) as (api, process):
        report = asyncio.run(_measure(api, process))
    print(json.dumps(report))


async def _measure(api: str, process: psutil.Process) -> dict[str, object]:
    async with httpx.AsyncClient(base_url=api, timeout=START_SECONDS) as through:
        await _ask(through)  # starts the model server
        async with httpx.AsyncClient(base_url=_model_server(process), timeout=START_SECONDS) as straight:
            sides: dict[str, list[Side]] = {"api": [], "model_server": []}
            for number in range(ROUNDS):
                for name, client in (("api", through), ("model_server", straight)):
                    sides[name].append(Side(await _rate(client), await _p50(client)))
                    print(f"round {number + 1}: {name} {sides[name][-1]}", flush=True)
    found = {
        name: Side(median(one.requests_per_second for one in rounds), median(one.p50_ms for one in rounds))
        for name, rounds in sides.items()
    }
    return {
        "name": "proxy",
        "ratio": found["api"].requests_per_second / found["model_server"].requests_per_second,
        "added_p50_ms": found["api"].p50_ms - found["model_server"].p50_ms,
        "sides": {name: side._asdict() for name, side in found.items()},
        "concurrent": CONCURRENT,
        "rounds": ROUNDS,
    }


async def _ask(client: httpx.AsyncClient) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "one two"}], "max_tokens": 4, "temperature": 0}
    (await client.post("/chat/completions", json=body)).raise_for_status()


async def _rate(client: httpx.AsyncClient) -> float:
    async def one_after_the_other() -> None:
        for _ in range(REQUESTS // CONCURRENT):
            await _ask(client)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(CONCURRENT)))
    return REQUESTS // CONCURRENT * CONCURRENT / (time.perf_counter() - began)


async def _p50(client: httpx.AsyncClient) -> float:
    times = []
    for _ in range(SINGLES):
        began = time.perf_counter()
        await _ask(client)
        times.append(time.perf_counter() - began)
    return median(times) * 1000


def _model_server(api: psutil.Process) -> str:
    """The address of the server that the API has started."""
    child = next(child for child in api.children() if "tunewise.serve" in child.cmdline())
    port = next(one.laddr.port for one in child.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    return f"http://127.0.0.1:{port}/v1"


@contextmanager
def _api(home: Path, model: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`tunewise up` without a worker, with `model` as a base model; its address and process."""
    (home / "models").mkdir()
    (home / "models" / f"hub--{NAME.replace('/', '--')}").symlink_to(model.absolute())
    environment = os.environ | {"TUNEWISE_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tunewise.cli", "up", "--port", "0", "--no-worker"]
    with (
        (home / "log.txt").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1], psutil.Process(process.pid)
        finally:
            process.terminate()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory of a base model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
