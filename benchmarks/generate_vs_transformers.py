"""Throughput of hosting over HTTP against `transformers.generate` in static batches, in one run on one machine.

Both sides write 64 tokens for each of 64 prompts, past any end token (`ignore_eos`, and no `eos_token_id` there), in
the same number format: by default the one that is faster on this machine for both. Ours answers 32 concurrent requests
of a real client over HTTP; theirs gets batches of 32, padded on the left, with the faster of its `sdpa` and `eager`
attention. Rounds alternate between the sides, each round on other rows, so that only what prompts truly share comes
from the prefix cache; the medians are compared.

    python benchmarks/generate_vs_transformers.py --model DIR --rows FILE.jsonl [--adapter DIR]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
from openai import AsyncOpenAI
from transformers import AutoModelForCausalLM

from serving_client import answer_all, client_of, first_tokens, peak_mb, questions, rate
from tunewise.data.template import Template
from tunewise.serve.network import best_dtype

PROMPTS, NEW_TOKENS, CONCURRENT, ROUNDS = 64, 64, 32, 3
WARM_UP = 8
FIRST_TOKEN_SINGLES = 5
START_SECONDS = 120.0


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
    taken = iter(questions(options.rows, needed))
    asked = ["tuned" if options.adapter else "hosted"]
    with _server(options, dtype) as server:
        warm = list(islice(taken, WARM_UP))
        ids = [template.prompt_ids(row) for row in warm]
        answer_all(server.client, asked, warm, NEW_TOKENS, CONCURRENT)
        attention = _faster_attention(options.model, dtype, ids)
        model = _load(options.model, dtype, attention)
        ours, theirs = [], []
        for number in range(ROUNDS):
            batch = list(islice(taken, PROMPTS))
            prompts = [template.prompt_ids(row) for row in batch]
            ours.append(rate(partial(answer_all, server.client, asked, batch, NEW_TOKENS, CONCURRENT)))
            theirs.append(rate(partial(_theirs, model, prompts)))
            print(f"round {number + 1}: ours {ours[-1]:.1f} tok/s, transformers {theirs[-1]:.1f} tok/s", flush=True)
        singles = [first_tokens(server.client, asked, [row], NEW_TOKENS) for row in islice(taken, FIRST_TOKEN_SINGLES)]
        crowd = first_tokens(server.client, asked, list(islice(taken, CONCURRENT)), NEW_TOKENS)
        report = {
            "name": "generate_vs_transformers",
            "ratio": round(median(ours) / median(theirs), 2),
            "sides": {
                "tunewise": {
                    "tokens_per_second": round(median(ours), 1),
                    "peak_memory_mb": peak_mb(server.pid),
                    "start_seconds": round(server.started, 2),
                    "first_token_seconds_at_1": round(median(median(one) for one in singles), 3),
                    "first_token_seconds_at_32": round(median(crowd), 3),
                },
                "transformers": {
                    "tokens_per_second": round(median(theirs), 1),
                    "peak_memory_mb": peak_mb(),
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
            yield Server(client_of(address["base_url"]), address["pid"], started)
        finally:
            process.terminate()
            process.wait()


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hosting over HTTP against transformers.generate.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="chat rows; each row's last message is left out")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="for both sides; default: the faster here")
    parser.add_argument("--adapter", type=Path, help="PEFT directory used by every request of ours, none of theirs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
