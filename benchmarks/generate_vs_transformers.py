"""Throughput of hosting over HTTP against `transformers.generate` in static batches, in one run on one machine.

Both sides write 64 tokens for each of 64 prompts, past any end token (`ignore_eos`, and no `eos_token_id` there), in
the same number format: by default the one that is faster on this machine for both. Ours answers 32 concurrent requests
of a real client over HTTP; theirs gets batches of 32, padded on the left, with the faster of its `sdpa` and `eager`
attention. Rounds alternate between the sides, each round on other rows, so that only what prompts truly share comes
from the prefix cache; the medians are compared.

    python benchmarks/generate_vs_transformers.py --model DIR --rows FILE.jsonl [--adapter DIR]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import msgspec
import torch
from openai import AsyncOpenAI
from transformers import AutoModelForCausalLM

from tunewise.contracts.chat import Message
from tunewise.data.formats import read_examples
from tunewise.data.template import Template
from tunewise.serve.network import best_dtype

PROMPTS, NEW_TOKENS, CONCURRENT, ROUNDS = 64, 64, 32, 3
WARM_UP = 8
FIRST_TOKEN_SINGLES = 5
START_SECONDS = 120.0

Conversation = list[Message]


class Server(NamedTuple):
    """A running server: `started` in seconds from spawn to ready file."""

    client: AsyncOpenAI
    pid: int
    started: float


def main() -> None:
    """Measure both sides and print; the last line is one JSON object."""
    options = _options()
    dtype = options.dtype or str(best_dtype()).removeprefix("torch.")
    template = Template.load(options.model)
    needed = WARM_UP + PROMPTS * ROUNDS + CONCURRENT + FIRST_TOKEN_SINGLES
    rows = [example.messages[:-1] for _, example in islice(read_examples(options.rows), needed)]
    if len(rows) < needed:
        sys.exit(f"{options.rows} has {len(rows)} rows; {needed} are needed")
    taken = iter(rows)
    with _server(options, dtype) as server:
        warm = list(islice(taken, WARM_UP))
        ids = [template.prompt_ids(row) for row in warm]
        _answer_all(server.client, warm)
        attention = _faster_attention(options.model, dtype, ids)
        model = _load(options.model, dtype, attention)
        ours, theirs = [], []
        for number in range(ROUNDS):
            batch = list(islice(taken, PROMPTS))
            prompts = [template.prompt_ids(row) for row in batch]
            ours.append(_rate(partial(_answer_all, server.client, batch)))
            theirs.append(_rate(partial(_theirs, model, prompts)))
            print(f"round {number + 1}: ours {ours[-1]:.1f} tok/s, transformers {theirs[-1]:.1f} tok/s", flush=True)
        singles = [asyncio.run(_first_tokens(server.client, [row])) for row in islice(taken, FIRST_TOKEN_SINGLES)]
        crowd = asyncio.run(_first_tokens(server.client, list(islice(taken, CONCURRENT))))
        report = {
            "name": "generate_vs_transformers",
            "ratio": round(median(ours) / median(theirs), 2),
            "sides": {
                "tunewise": {
                    "tokens_per_second": round(median(ours), 1),
                    "peak_memory_mb": _peak_mb(server.pid),
                    "start_seconds": round(server.started, 2),
                    "first_token_seconds_at_1": round(median(median(one) for one in singles), 3),
                    "first_token_seconds_at_32": round(median(crowd), 3),
                },
                "transformers": {
                    "tokens_per_second": round(median(theirs), 1),
                    "peak_memory_mb": _peak_mb(os.getpid()),
                    "attention": attention,
                },
            },
            "dtype": dtype,
            "adapter": options.adapter is not None,
            "prompts": PROMPTS,
            "new_tokens": NEW_TOKENS,
            "concurrent": CONCURRENT,
        }
    print(json.dumps(report))


@contextmanager
def _server(options: argparse.Namespace, dtype: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as directory:
        ready = Path(directory) / "ready.json"
        command = [sys.executable, "-m", "tunewise.serve", "--model", str(options.model), "--name", "hosted"]
        command += ["--dtype", dtype, "--ready-file", str(ready)]
        if options.adapter:
            command += ["--adapter", f"tuned={options.adapter}"]
        began = time.perf_counter()
        process = subprocess.Popen(command)
        try:
            while not ready.exists():
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    sys.exit("the server did not start")
                time.sleep(0.01)
            started = time.perf_counter() - began
            address = json.loads(ready.read_text())
            # One client per event loop would be the rule; without keep-alive it can be shared by several in turn.
            client = AsyncOpenAI(base_url=address["base_url"], api_key="none", timeout=600, max_retries=0)
            yield Server(client.with_options(default_headers={"Connection": "close"}), address["pid"], started)
        finally:
            process.terminate()
            process.wait()


def _answer_all(client: AsyncOpenAI, rows: Sequence[Conversation]) -> int:
    return asyncio.run(_ours(client, rows))


async def _ours(client: AsyncOpenAI, rows: Sequence[Conversation]) -> int:
    """Answer all rows, so many at a time; gives the tokens written."""
    gate = asyncio.Semaphore(CONCURRENT)

    async def one(row: Conversation) -> int:
        async with gate:
            answer = await client.chat.completions.create(**_request(row), stream=False)
        assert answer.usage is not None
        return int(answer.usage.completion_tokens)

    return sum(await asyncio.gather(*(one(row) for row in rows)))


async def _first_tokens(client: AsyncOpenAI, rows: Sequence[Conversation]) -> list[float]:
    """Seconds from request to first text, for requests sent at the same moment."""

    async def one(row: Conversation) -> float:
        began = time.perf_counter()
        first = None
        stream = await client.chat.completions.create(**_request(row), stream=True)
        async for chunk in stream:
            if first is None and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter() - began
        return first or time.perf_counter() - began

    return list(await asyncio.gather(*(one(row) for row in rows)))


def _request(row: Conversation) -> dict[str, Any]:
    model = "tuned" if "--adapter" in sys.argv else "hosted"
    settings = {"max_tokens": NEW_TOKENS, "temperature": 0, "extra_body": {"ignore_eos": True}}
    return {"model": model, "messages": msgspec.to_builtins(row), **settings}


def _faster_attention(model: Path, dtype: str, prompts: list[list[int]]) -> Literal["sdpa", "eager"]:
    seconds = {}
    for attention in ("sdpa", "eager"):
        loaded = _load(model, dtype, attention)
        _theirs(loaded, prompts[:2])
        began = time.perf_counter()
        _theirs(loaded, prompts)
        seconds[attention] = time.perf_counter() - began
    return "sdpa" if seconds["sdpa"] <= seconds["eager"] else "eager"


def _load(model: Path, dtype: str, attention: str) -> Any:  # noqa: ANN401  # transformers is untyped
    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=dtype, attn_implementation=attention, local_files_only=True
    )
    loaded.generation_config.eos_token_id = None
    return loaded


def _theirs(model: Any, prompts: list[list[int]]) -> int:  # noqa: ANN401
    """Static batches, padded on the left; gives the tokens written."""
    written = 0
    for start in range(0, len(prompts), CONCURRENT):
        batch = prompts[start : start + CONCURRENT]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in batch])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in batch])
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
            )
        written += (made.shape[1] - longest) * len(batch)
    return written


def _rate(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - began)


def _peak_mb(pid: int) -> int:
    """Largest resident set of a process so far (Linux), in MB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hosting over HTTP against transformers.generate.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="chat rows; each row's last message is left out")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="for both sides; default: the faster here")
    parser.add_argument("--adapter", type=Path, help="PEFT directory used by every request of ours, none of theirs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
