"""What the hosting engine does with many adapters, with common beginnings of prompts, and by how weights are stored.

    python benchmarks/hosting_engine.py adapters|prefix|weights|roofline --rows FILE.jsonl [--model DIR] [--repeat 3]

In one process, without HTTP, on a file of chat rows whose last message is the answer; 64 new tokens for each of 64
prompts, past any end token, 32 at once; medians of `--repeat` times, sides of one engine in turns. One engine is up at
a time: two would have twice as many threads as there are cores.

* `adapters`: all prompts ask one adapter (rank 16, all linear layers); then eight, mixed in each batch; then the same
  eight where `--registered` (1,000) are registered and memory is given for `--resident` (16). Goals: eight at 80 % of
  one, a thousand registered the same as eight, with flat memory.
* `prefix`: prompts with as many rows before them as fill 800 tokens, the same for all, and 16 new tokens; with the
  cache of beginnings and without. Goal: 4 times.
* `weights`: the model as it is, whose weights float16 holds, and the same with weights that it does not hold (each a
  hair larger), so that they stay float32: at 1, 8 and 32 requests at once, in float32.
* `roofline`: a step of 1, 8 and 32 running answers, against the time in which the model's weights are read once at the
  speed at which this machine adds up a large tensor.

All but `weights` compute in the number format that a server would choose. The last line is one JSON object.
"""

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.chat import Message, SystemMessage
from tunewise.data.formats import read_examples
from tunewise.data.template import Template
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.local import LIMITS, LocalEngine
from tunewise.serve.network import best_dtype
from tunewise.settings import get_settings

PROMPTS, NEW_TOKENS, CONCURRENT = 64, 64, 32
PREFIX_TOKENS, PREFIX_NEW_TOKENS = 800, 16
IN_USE = 8
ROOFLINE_PROMPT_TOKENS, ROOFLINE_NEW_TOKENS = 16, 128
READINGS = 8
GREEDY = Sampling(0.0, 1.0, 0)


def main() -> None:
    """Measure one of them and print; the last line is one JSON object."""
    options = _options()
    torch.set_grad_enabled(False)
    template = Template.load(options.model)
    conversations = [example.messages for _, example in islice(read_examples(options.rows), 2 * PROMPTS)]
    measure = {"adapters": _adapters, "prefix": _prefix, "weights": _weights, "roofline": _roofline}[options.what]
    print(json.dumps({"name": f"hosting_{options.what}", **measure(options, template, conversations)}))


def _adapters(options: argparse.Namespace, template: Template, rows: list[list[Message]]) -> dict[str, Any]:
    prompts = [template.prompt_ids(row[:-1]) for row in rows[:PROMPTS]]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        paths = [_random_adapter(options.model, directory / str(number), number) for number in range(IN_USE)]
        size = (paths[0] / "adapter_model.safetensors").stat().st_size
        many = LIMITS._replace(adapter_bytes=options.resident * size)
        few: dict[str, list[str | None]] = {
            "no_adapter": [None],
            "one_adapter": ["0"],
            "eight_mixed": [str(number) for number in range(IN_USE)],
        }
        with LocalEngine(options.model, best_dtype()) as local:
            _load(local, paths, IN_USE)
            speeds = _in_turns(
                options.repeat, {name: partial(_speed, local, prompts, own) for name, own in few.items()}
            )
        in_use = [str(options.registered - 1 - number) for number in range(IN_USE)]
        with LocalEngine(options.model, best_dtype(), many) as local:
            _load(local, paths, options.registered)
            side = {f"eight_of_{options.registered}": partial(_speed, local, prompts, in_use)}
            speeds |= _in_turns(options.repeat, side)
            held = local.engine.adapter_bytes()
    return {
        "ratio": round(speeds["eight_mixed"] / speeds["one_adapter"], 3),
        "sides": speeds,
        "adapter_mb": size >> 20,
        "adapters_in_memory_mb": held >> 20,
        "resident_memory_mb": psutil.Process().memory_info().rss >> 20,
    }


def _prefix(options: argparse.Namespace, template: Template, rows: list[list[Message]]) -> dict[str, Any]:
    shots: list[Message] = []
    taken = iter(rows[PROMPTS:])
    while len(template.prompt_ids([*shots, rows[0][-2]])) < PREFIX_TOKENS:
        shots += [message for message in next(taken) if not shots or not isinstance(message, SystemMessage)]
    prompts = [
        template.prompt_ids([*shots, *(message for message in row[:-1] if not isinstance(message, SystemMessage))])
        for row in rows[:CONCURRENT]
    ]
    plain = LIMITS._replace(prefix_bytes=0)
    speeds: dict[str, float] = {}
    for name, limits in {"cached": LIMITS, "without": plain}.items():
        with LocalEngine(options.model, best_dtype(), limits) as local:
            side = {name: partial(_speed, local, prompts, [None], PREFIX_NEW_TOKENS)}
            speeds |= _in_turns(options.repeat, side)
    return {
        "ratio": round(speeds["cached"] / speeds["without"], 2),
        "sides": speeds,
        "prompt_tokens": round(statistics.mean(map(len, prompts))),
    }


def _weights(options: argparse.Namespace, template: Template, rows: list[list[Message]]) -> dict[str, Any]:
    prompts = [template.prompt_ids(row[:-1]) for row in rows[:PROMPTS]]
    sides: dict[str, dict[str, float]] = {"float16": {}, "float32": {}}
    with tempfile.TemporaryDirectory() as name:
        models = {"float16": options.model, "float32": _a_hair_larger(options.model, Path(name))}
        for kind, model in models.items():
            with LocalEngine(model, torch.float32) as local:
                timed = {
                    f"tokens_per_second_at_{at_once}": partial(
                        _speed, local, prompts[: 4 * at_once], [None], at_once=at_once
                    )
                    for at_once in (1, 8, CONCURRENT)
                }
                sides[kind] = _in_turns(options.repeat, timed)
    ratios = {name: round(sides["float16"][name] / speed, 2) for name, speed in sides["float32"].items()}
    return {"ratio": ratios["tokens_per_second_at_1"], "ratios": ratios, "sides": sides}


def _load(local: LocalEngine, paths: Sequence[Path], count: int) -> None:
    for number in range(count):
        local.engine.load_adapter(str(number), paths[number % len(paths)])


def _roofline(options: argparse.Namespace, template: Template, rows: list[list[Message]]) -> dict[str, Any]:
    dtype = best_dtype()
    prompts = [template.prompt_ids(row[:-1])[:ROOFLINE_PROMPT_TOKENS] for row in rows[:CONCURRENT]]
    sizes = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).state_dict()
    weights = sum({value.data_ptr(): value.nbytes for value in sizes.values()}.values())
    with LocalEngine(options.model, dtype) as local:
        sides = {
            f"step_of_{at_once}": partial(_speed, local, prompts[:at_once], [None], ROOFLINE_NEW_TOKENS, at_once)
            for at_once in (1, 8, CONCURRENT)
        }
        speeds = _in_turns(options.repeat, sides)
    bytes_per_second = _reading_speed()
    floor = weights / bytes_per_second
    steps = {name: int(name.rpartition("_")[2]) / speed for name, speed in speeds.items()}
    return {
        "ratio": round(floor / steps["step_of_1"], 2),
        "floor_ms": round(1000 * floor, 2),
        "steps_ms": {name: round(1000 * seconds, 2) for name, seconds in steps.items()},
        "shares": {name: round(floor / seconds, 2) for name, seconds in steps.items()},
        "weights_mb": weights >> 20,
        "gb_per_second": round(bytes_per_second / 1e9, 1),
    }


def _reading_speed() -> float:
    """Bytes per second, the best of some readings of a tensor far larger than the caches."""
    large = torch.ones(1 << 27, dtype=torch.int64)
    times = []
    for _ in range(READINGS):
        began = time.perf_counter()
        large.sum()
        times.append(time.perf_counter() - began)
    return large.nbytes / min(times)


def _a_hair_larger(model: Path, directory: Path) -> Path:
    """A copy of the model in float32, of which float16 holds hardly a weight."""
    shutil.copytree(model, directory / "copy", ignore=shutil.ignore_patterns("*.safetensors*"))
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for weight in plain.parameters():
        weight.mul_(1 + 2.0**-20)
    plain.save_pretrained(str(directory / "copy"))
    return directory / "copy"


def _speed(
    local: LocalEngine,
    prompts: Sequence[list[int]],
    adapters: Sequence[str | None],
    new_tokens: int = NEW_TOKENS,
    at_once: int = CONCURRENT,
) -> float:
    """New tokens per second; each call's prompts begin otherwise, so that the cache holds none of them."""
    salt = random.randrange(1000, 20_000)
    asked = [
        Generation((salt, *prompt), adapters[place % len(adapters)], 1, new_tokens, GREEDY, ignore_eos=True)
        for place, prompt in enumerate(prompts)
    ]
    began = time.perf_counter()
    for start in range(0, len(asked), at_once):
        local.generate(asked[start : start + at_once])
    return len(asked) * new_tokens / (time.perf_counter() - began)


def _in_turns(repeat: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each side, all measured once before it counts."""
    runs: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeat + 1):
        for name, measure in sides.items():
            speed = measure()
            print(f"turn {turn} {name}: {speed:.1f} tok/s", flush=True)
            if turn:
                runs[name].append(speed)
    return {name: round(statistics.median(of_side), 1) for name, of_side in runs.items()}


def _random_adapter(model: Path, directory: Path, seed: int) -> Path:
    """Rank 16 on all linear layers, small enough to leave the model sensible."""
    torch.manual_seed(seed)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tuned = get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"))
    for path, weight in tuned.named_parameters():
        if "lora_B" in path:
            weight.data.normal_(0.0, 0.002)
    tuned.save_pretrained(str(directory))
    return directory


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("adapters", "prefix", "weights", "roofline"))
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="by default the catalogue's")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--registered", type=int, default=1000)
    parser.add_argument("--resident", type=int, default=16, help="adapters that fit the memory given to them")
    options = parser.parse_args()
    options.model = options.model or find(DEFAULT_MODEL, get_settings()).path
    return options


if __name__ == "__main__":
    main()
