"""How fast rows are read and validated, against loops over `json.loads`; and the peak memory of a whole check.

    python benchmarks/data_check.py [--megabytes 128] [--check-megabytes 512]

Three sides read the same file of made-up chat rows in seven rounds, in turn, each in one thread. Processor time is
taken, which other programs disturb less than wall time, and the ratio is the median of the rounds' ratios:
* `validate`: tunewise's reader, decoder and rules, as `data check` runs them;
* `json_loads_and_validation`: a `json.loads` loop with the same rules in plain Python: the checks of the OpenAI
  cookbook ("Data preparation and analysis for chat model fine-tuning") and the types and fields of each role;
* `json_loads`: the bare loop, which checks nothing.
`ratio` compares the first two. Then one `data check` without tokens over a large file, with its peak memory.
"""

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunewise.data.check import check
from tunewise.data.reader import read_span, spans
from tunewise.data.scan import validate

ROUNDS = 7
FIELDS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "refusal", "tool_calls", "function_call", "weight"},
    "tool": {"role", "content", "name", "tool_call_id"},
    "function": {"role", "content", "name"},
}


def write_rows(path: Path, megabytes: int, seed: int = 7) -> None:
    """Rows of 800 bytes, shaped like the OpenAI cookbook's recipe rows: quotes, line ends, little beyond ASCII."""
    rng = random.Random(seed)
    words = [
        f"{a}{b}{c}" for a in ("sal", "tor", "mi", "ple") for b in ("ta", "ri", "on") for c in ("n", "mé", "s", '"')
    ]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while file.tell() < megabytes * 1_000_000:
            block = [json.dumps(_row(rng, words), ensure_ascii=False) for _ in range(1000)]
            file.write("\n".join(block) + "\n")


def _row(rng: random.Random, words: list[str]) -> dict[str, Any]:
    title = "Café" if rng.random() < 0.02 else "Text"
    lines = json.dumps([" ".join(rng.choices(words, k=4)) for _ in range(12)])
    question = f"Title: {title}\n\nLines: {lines}\n\nGeneric words: "
    return {
        "messages": [
            {"role": "system", "content": "You are an assistant that lists what a text is about."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": json.dumps(rng.choices(words, k=8))},
        ]
    }


def tunewise_side(path: Path) -> int:
    """Rows that our reader finds good."""
    return sum(len(validate(read_span(path, span), "chat").rows) for span in spans(path, path.stat().st_size))


def bare_side(path: Path) -> int:
    """Rows that parse."""
    rows = 0
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
            rows += 1
    return rows


def plain_side(path: Path) -> int:
    """Rows that the same rules in plain Python find good."""
    rows = 0
    roles: Counter[str] = Counter()
    with path.open("rb") as file:
        for line in file:
            example = json.loads(line)
            rows += not _errors(example, roles)
    return rows


def _errors(example: Any, roles: Counter[str]) -> list[str]:  # noqa: ANN401
    if not isinstance(example, dict):
        return ["data_type"]
    errors = [
        f"unknown_field {k}" for k in example if k not in ("messages", "tools", "parallel_tool_calls", "functions")
    ]
    messages = example.get("messages")
    if not isinstance(messages, list) or not messages:
        return [*errors, "missing_messages_list"]
    for message in messages:
        errors += _message_errors(message, roles)
    if not any(m.get("role") == "assistant" for m in messages):
        errors.append("example_missing_assistant_message")
    elif messages[-1].get("role") != "assistant":
        errors.append("last_message_not_assistant")
    if not any(m.get("role") == "user" for m in messages):
        errors.append("no_user_message")
    if all(m.get("weight") == 0 for m in messages if m.get("role") == "assistant"):
        errors.append("nothing_to_train_on")
    return errors


def _message_errors(message: Any, roles: Counter[str]) -> list[str]:  # noqa: ANN401
    if not isinstance(message, dict):
        return ["message_type"]
    role, content = message.get("role"), message.get("content")
    if role not in FIELDS:
        return ["unrecognized_role"]
    roles[role] += 1
    errors = [f"message_unrecognized_key {key}" for key in message if key not in FIELDS[role]]
    calls = message.get("tool_calls") or message.get("function_call")
    if isinstance(content, list):
        errors += ["content_part" for p in content if not isinstance(p, dict) or p.get("type") != "text"]
    elif not (isinstance(content, str) or (content is None and role == "assistant")):
        errors.append("content_type")
    if not calls and (not content or (isinstance(content, str) and content.isspace())):
        errors.append("missing_content")
    if message.get("weight") not in (None, 0, 1):
        errors.append("weight")
    if not isinstance(message.get("name", ""), str):
        errors.append("name_type")
    return errors


def seconds(side: Callable[[Path], int], path: Path) -> tuple[float, int]:
    """Processor time of one round, and what the side counted."""
    started = time.process_time()
    rows = side(path)
    return time.process_time() - started, rows


def median_ratio(rounds: list[dict[str, tuple[float, int]]], slow: str) -> float:
    """How many times longer `slow` took than `validate`."""
    return round(statistics.median(one[slow][0] / one["validate"][0] for one in rounds), 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=48)
    parser.add_argument("--check-megabytes", type=int, default=512)
    asked = parser.parse_args()
    sides = {"validate": tunewise_side, "json_loads_and_validation": plain_side, "json_loads": bare_side}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.jsonl"
        write_rows(path, asked.megabytes)
        rounds = [{name: seconds(side, path) for name, side in sides.items()} for _ in range(ROUNDS)]
        assert len({rows for one in rounds for _, rows in one.values()}) == 1, "the sides disagree"
        best = {name: min(one[name][0] for one in rounds) for name in sides}
        rows = rounds[0]["validate"][1]
        for name, taken in best.items():
            print(
                f"{name:28} {taken:7.3f} s  {rows / taken:12,.0f} rows/s  {path.stat().st_size / taken / 1e6:7.0f} MB/s"
            )
        write_rows(path, asked.check_megabytes)
        started = time.perf_counter()
        report = check([("train", path)])
        check_seconds = time.perf_counter() - started
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
        print(
            f"data check without tokens: {report.files[0].bytes / 1e6:.0f} MB, {report.files[0].rows:,} rows in "
            f"{check_seconds:.1f} s; largest process {peak / 1e6:.0f} MB"
        )
    print(
        json.dumps(
            {
                "name": "data_check",
                "ratio": median_ratio(rounds, "json_loads_and_validation"),
                "ratio_to_bare_json_loads": median_ratio(rounds, "json_loads"),
                "sides": {name: round(rows / taken) for name, taken in best.items()},
                "unit": "rows/s",
                "check_seconds": round(check_seconds, 1),
                "check_megabytes": asked.check_megabytes,
                "check_peak_bytes": peak,
            }
        )
    )


if __name__ == "__main__":
    main()
