"""GGUF files of a tuned model in llama.cpp against the adapter on its base in transformers: greedy text, on both sides.

The export is the one that users make (`tunewise export RUN --to gguf`), with its parity gate. Then both sides write
greedily from the same prompts, of rows that the model was not tuned on: llama.cpp as it is by default, the adapter in
float32 by PEFT. Where texts part, llama.cpp's own gap between the two tokens says how close the call was. The
log-probability gap is that of llama.cpp's reading of the reference's text, over all of its tokens.

    python benchmarks/gguf_equals_adapter.py --run RUN_DIR --rows FILE.jsonl [--prompts 50] [--quantisation f16]

The last line is one JSON object; the exit code is 1 where fewer than `--goal` of the texts are equal.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from tunewise.contracts.export import ExportReport, ExportSpec
from tunewise.contracts.parity import ParityPrompt
from tunewise.data.formats import read_examples
from tunewise.data.template import Template
from tunewise.export.llama_cpp import LlamaCpp
from tunewise.export.tuned import adapted_base, tokenizer_directory
from tunewise.jobs import exporting
from tunewise.modeling.greedy import as_hosted, greedy_answers
from tunewise.settings import get_settings

PROMPTS_AT_ONCE = 10


class Compared(NamedTuple):
    """One prompt: whether the texts are equal; where not, llama.cpp's gap in nats; all log-probability gaps."""

    equal: bool
    gap: float
    logprob_gaps: list[float]


def main() -> int:
    """Export, compare and print; 1 if too few texts are equal."""
    options = _options()
    spec = _spec(options)
    template = Template.load(tokenizer_directory(spec))
    prompts = [
        template.prompt_ids(example.messages[:-1])
        for _, example in islice(read_examples(options.rows), options.prompts)
    ]
    with tempfile.TemporaryDirectory() as directory:
        started = time.monotonic()
        report = exporting.export(spec.model_copy(update={"output": Path(directory) / "out"}))
        print(report.model_dump_json(), flush=True)
        exported = time.monotonic() - started
        references = _references(spec, prompts, template, options.tokens)
        file = next((Path(directory) / "out").glob("*.gguf"))
        longest = max(map(len, prompts)) + options.tokens + 1
        with LlamaCpp(file, longest, end=min(template.stop_ids)) as llama:
            compared = []
            for one in references:
                compared.append(_compare(llama, one, options.tokens))
                print(f"{len(compared)}: {sum(each.equal for each in compared)} equal", file=sys.stderr, flush=True)
    _print(options, compared, report, exported)
    return int(sum(one.equal for one in compared) < options.goal * len(compared))


def _spec(options: argparse.Namespace) -> ExportSpec:
    settings = get_settings()
    tuned = exporting.find(str(options.run), settings)
    spec = exporting.plan(tuned, settings, base=None, notify=print)
    return spec.model_copy(update={"target": "gguf", "quantisation": options.quantisation})


def _references(spec: ExportSpec, prompts: list[list[int]], template: Template, tokens: int) -> list[ParityPrompt]:
    adapted = adapted_base(spec, spec.source)
    found: list[ParityPrompt] = []
    with as_hosted(adapted):
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            some = prompts[start : start + PROMPTS_AT_ONCE]
            found += greedy_answers(adapted, some, template.stop_ids, new_tokens=tokens)
            print(f"{len(found)} answered by the adapter", file=sys.stderr, flush=True)
    return found


def _compare(llama: LlamaCpp, reference: ParityPrompt, tokens: int) -> Compared:
    written = llama.greedy(reference.prompt, new_tokens=tokens)
    readings = llama.readings(reference)
    gaps = [abs(reading.recorded - own) for reading, own in zip(readings, reference.logprobs, strict=True)]
    place = next((at for at, pair in enumerate(zip(written, reference.continuation)) if pair[0] != pair[1]), None)  # noqa: B905
    if place is None and len(written) == len(reference.continuation):
        return Compared(True, 0.0, gaps)
    place = min(len(written), len(reference.continuation)) - 1 if place is None else place
    return Compared(False, readings[place].logprob - readings[place].recorded, gaps)


def _print(options: argparse.Namespace, compared: list[Compared], report: ExportReport, seconds: float) -> None:
    gaps = sorted(gap for one in compared for gap in one.logprob_gaps)
    print(
        json.dumps(
            {
                "name": "gguf_equals_adapter",
                "quantisation": options.quantisation,
                "prompts": len(compared),
                "tokens": len(gaps),
                "ratio": sum(one.equal for one in compared) / len(compared),
                "widest_gap_where_texts_part": max((one.gap for one in compared if not one.equal), default=None),
                "logprob_gap": {
                    "mean": statistics.fmean(gaps),
                    "p99": gaps[int(0.99 * (len(gaps) - 1))],
                    "max": gaps[-1],
                },
                "gate": {"tokens": report.tokens, "near_ties": report.near_ties, "widest": report.widest_logprob},
                "export_seconds": round(seconds, 1),
                "megabytes": round(max(report.files.values()) / 1e6, 1),
                "threads": torch.get_num_threads(),
            }
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Greedy texts: llama.cpp from an exported GGUF against the adapter.")
    parser.add_argument("--run", type=Path, required=True, help="a run directory, or one of an experiment")
    parser.add_argument("--rows", type=Path, required=True, help="chat rows; each row's last message is left out")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--quantisation", choices=("f16", "q8_0"), default="f16")
    parser.add_argument("--goal", type=float, default=0.95)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
