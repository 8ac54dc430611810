"""Answers of a JSON schema, over HTTP: how many are valid, and what the grammar costs in speed.

Each row's conversation, its last message left out, is answered with the schema told in a system message, three times by
the same server without a prefix cache: with the schema enforced (sampled); freely (sampled), to see how many are valid
without; and freely but as many tokens for each prompt as the enforced answer has, which is what the speed is held
against. Answers that were cut at `--max-tokens` are counted apart: no grammar can end them. Rounds alternate.

    python benchmarks/structured_output.py --model DIR --rows FILE.jsonl [--schema FILE.json] [--prompts 200]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jsonschema_rs
import msgspec
from openai import AsyncOpenAI

from tunewise.contracts.chat import Message, SystemMessage
from tunewise.data.formats import read_examples

CONCURRENT, WARM_UP, START_SECONDS = 32, 8, 120.0
Conversation = list[Message]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "ingredients": {
            "type": "array",
            "items": {"type": "string", "minLength": 2, "maxLength": 40},
            "minItems": 1,
            "maxItems": 12,
        },
        "course": {"enum": ["starter", "main", "dessert", "other"]},
        "vegetarian": {"type": "boolean"},
    },
    "required": ["ingredients", "course", "vegetarian"],
    "additionalProperties": False,
}


class Written(NamedTuple):
    """An answer: its text, tokens, and whether it ended by itself."""

    text: str
    tokens: int
    is_finished: bool


class Side(NamedTuple):
    """What one way of asking gave, over all prompts."""

    answers: list[Written]
    seconds: float

    def rate(self) -> float:
        """Tokens a second."""
        return sum(answer.tokens for answer in self.answers) / self.seconds


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    options = _options()
    schema = json.loads(options.schema.read_text()) if options.schema else SCHEMA
    told = SystemMessage(content=f"Answer as JSON of this schema, and with nothing else: {json.dumps(schema)}")
    rows = [[told, *example.messages[:-1]] for _, example in islice(read_examples(options.rows), options.prompts)]
    if len(rows) < options.prompts:
        sys.exit(f"{options.rows} has {len(rows)} rows; {options.prompts} are needed")
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    sampled = {"temperature": options.temperature}
    limits = [options.max_tokens] * len(rows)
    enforced, matched = list[Side](), list[Side]()
    with _server(options) as client:
        _ask(client, rows[:WARM_UP], limits, response_format=form, **sampled)
        for number in range(options.rounds):
            enforced.append(_ask(client, rows, limits, response_format=form, **sampled))
            same = [answer.tokens for answer in enforced[-1].answers]
            matched.append(_ask(client, rows, same, extra_body={"ignore_eos": True}, **sampled))
            rates = f"{enforced[-1].rate():.1f} tok/s with the schema, {matched[-1].rate():.1f} without"
            print(f"round {number + 1}: {rates}", flush=True)
        free = _ask(client, rows, limits, **sampled)
    sides = {"schema": _counted(enforced[0], schema), "free": _counted(free, schema)}
    sides["schema"]["tokens_per_second"] = round(median(side.rate() for side in enforced), 1)
    sides["free"]["tokens_per_second"] = round(median(side.rate() for side in matched), 1)
    ratio = round(sides["schema"]["tokens_per_second"] / sides["free"]["tokens_per_second"], 3)
    print(f"with the schema {sides['schema']}; without {sides['free']}")
    report = {"name": "structured_output", "ratio": ratio, "sides": sides, "prompts": len(rows)}
    print(json.dumps(report | {"max_tokens": options.max_tokens, "temperature": options.temperature}))


def _counted(side: Side, schema: dict[str, Any]) -> dict[str, Any]:
    finished = [answer for answer in side.answers if answer.is_finished]
    valid = sum(_is_valid(answer.text, schema) for answer in finished)
    return {"finished": len(finished), "valid": valid, "cut": len(side.answers) - len(finished)}


def _is_valid(text: str, schema: dict[str, Any]) -> bool:
    try:
        return jsonschema_rs.is_valid(schema, json.loads(text))
    except ValueError:
        return False


def _ask(client: AsyncOpenAI, rows: Sequence[Conversation], limits: Sequence[int], **changes: object) -> Side:
    began = time.perf_counter()
    answers = asyncio.run(_answers(client, rows, limits, changes))
    return Side(answers, time.perf_counter() - began)


async def _answers(
    client: AsyncOpenAI, rows: Sequence[Conversation], limits: Sequence[int], changes: dict[str, object]
) -> list[Written]:
    gate = asyncio.Semaphore(CONCURRENT)

    async def one(seed: int, row: Conversation) -> Written:
        asked: dict[str, Any] = {"model": "hosted", "messages": msgspec.to_builtins(row), "seed": seed}
        asked |= {"max_tokens": limits[seed]} | changes
        async with gate:
            answer = await client.chat.completions.create(**asked)
        choice = answer.choices[0]
        assert answer.usage is not None
        return Written(choice.message.content or "", answer.usage.completion_tokens, choice.finish_reason == "stop")

    return list(await asyncio.gather(*(one(seed, row) for seed, row in enumerate(rows))))


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[AsyncOpenAI]:
    with tempfile.TemporaryDirectory() as directory:
        ready = Path(directory) / "ready.json"
        command = [sys.executable, "-m", "tunewise.serve", "--model", str(options.model), "--name", "hosted"]
        process = subprocess.Popen([*command, "--ready-file", str(ready), "--no-prefix-cache"])
        began = time.perf_counter()
        try:
            while not ready.exists():
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    sys.exit("the server did not start")
                time.sleep(0.01)
            address = json.loads(ready.read_text())
            # One client per event loop would be the rule; without keep-alive it can be shared by several in turn.
            client = AsyncOpenAI(base_url=address["base_url"], api_key="none", timeout=900, max_retries=0)
            yield client.with_options(default_headers={"Connection": "close"})
        finally:
            process.terminate()
            process.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answers of a JSON schema: how many are valid, and how fast.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="chat rows; each row's last message is left out")
    parser.add_argument("--schema", type=Path, help="a JSON schema; default: ingredients, course, vegetarian")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=1.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
