"""Greedy tokens of the hosting engine against `transformers.generate`, one prompt at a time on that side.

Prompts run concurrently in the engine, of mixed lengths, without adapters and then with four kinds of rows mixed in one
batch (no adapter, two ranks, rank-stabilised), with the prefix cache on and off. In float32 every token must be equal.
In bfloat16 a difference is allowed at a near tie only, and the widest gap is printed: by how much the reference's own
logit of its token exceeded that of ours, where the two first differ.

    python benchmarks/serve_equals_transformers.py --model DIR --rows FILE.jsonl [--dtype float32] [--prompts 120]
"""

import argparse
import json
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tunewise.data.formats import read_examples
from tunewise.data.template import Template
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.local import LIMITS, LocalEngine

ADAPTERS: dict[str, dict[str, Any]] = {
    "sixteen": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
    "attention": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "stabilised": {"r": 32, "lora_alpha": 16, "target_modules": "all-linear", "use_rslora": True},
}
NEAR_TIE = 0.25  # logits; bfloat16 has 8 bits, so a logit of 16 to 32 is known to 0.125 at best


class Reference(NamedTuple):
    """What transformers wrote, without the end token; `logits` (tokens, vocabulary) as `generate` saw them."""

    tokens: list[int]
    logits: torch.Tensor


def main() -> int:
    """Compare and print; 1 if anything differs that may not."""
    options = _options()
    torch.manual_seed(0)
    template = Template.load(options.model)
    prompts = [
        template.prompt_ids(example.messages[:-1])
        for _, example in islice(read_examples(options.rows), options.prompts)
    ]
    with tempfile.TemporaryDirectory() as directory:
        model = _with_adapters(options, Path(directory))
        worst = 0
        for mixed in (False, True):
            names = [None, *ADAPTERS] if mixed else [None]
            chosen = [names[place % len(names)] for place in range(len(prompts))]
            references = [
                _reference(model, prompt, name, options.tokens, template.stop_ids)
                for prompt, name in zip(prompts, chosen, strict=True)
            ]
            for cached in (True, False):
                worst = max(worst, _compare(options, Path(directory), prompts, chosen, references, cached=cached))
    return worst


def _with_adapters(options: argparse.Namespace, directory: Path) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=_dtype(options), local_files_only=True)
    peft_model: PeftModel | None = None
    for name, shape in ADAPTERS.items():
        config = LoraConfig(task_type="CAUSAL_LM", **shape)
        if peft_model is None:
            peft_model = get_peft_model(model, config, adapter_name=name)
        else:
            peft_model.add_adapter(name, config)
    assert peft_model is not None
    for path, weight in peft_model.named_parameters():
        if "lora_" in path:
            torch.nn.init.normal_(weight, std=0.03 if "lora_A" in path else 0.02)
    peft_model.save_pretrained(str(directory))
    return peft_model.eval()


def _reference(
    model: PeftModel, prompt: list[int], name: str | None, tokens: int, stop_ids: frozenset[int]
) -> Reference:
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0, "eos_token_id": list(stop_ids)}
    generate: Any = model.generate  # untyped in peft
    settings |= {"return_dict_in_generate": True, "output_logits": True, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        if name is None:
            with model.disable_adapter():
                made = generate(input_ids=ids, **settings)
        else:
            model.set_adapter(name)
            made = generate(input_ids=ids, **settings)
    written = made.sequences[0, len(prompt) :].tolist()
    kept = [token for token in written if token not in stop_ids]
    return Reference(written[: len(kept) + 1], torch.cat(made.logits).float())


def _compare(
    options: argparse.Namespace,
    adapters: Path,
    prompts: list[list[int]],
    chosen: list[str | None],
    references: list[Reference],
    *,
    cached: bool,
) -> int:
    limits = LIMITS if cached else LIMITS._replace(prefix_bytes=0)
    with LocalEngine(options.model, _dtype(options), limits) as local:
        for name in ADAPTERS:
            local.engine.load_adapter(name, adapters / name)
        results = local.generate(
            [
                Generation(tuple(prompt), name, 1, options.tokens, Sampling(0.0, 1.0, 0), top_logprobs=0)
                for prompt, name in zip(prompts, chosen, strict=True)
            ]
        )
        stop = min(local.template.stop_ids)
    gaps = []
    for result, reference in zip(results, references, strict=True):
        ours = [item.token for item in result.logprobs[0]] + ([stop] if result.finish_reasons[0] == "stop" else [])
        gaps += _gap(ours, reference, local.template.stop_ids)
    allowed = NEAR_TIE if options.dtype == "bfloat16" else 0.0
    report = {
        "name": "serve_equals_transformers",
        "dtype": options.dtype,
        "prompts": len(prompts),
        "tokens": sum(len(reference.tokens) for reference in references),
        "adapters": len(set(chosen)) - 1,
        "prefix_cache": cached,
        "cached_tokens": sum(result.usage.cached_tokens for result in results),
        "different": len(gaps),
        "widest_logit_gap": round(max(gaps, default=0.0), 4),
    }
    print(json.dumps(report), flush=True)
    return int(max(gaps, default=-1.0) > allowed or (options.dtype == "float32" and bool(gaps)))


def _gap(ours: list[int], reference: Reference, stop_ids: frozenset[int]) -> list[float]:
    """The reference's logit gap at the first difference, or nothing when there is none."""
    for place, token in enumerate(reference.tokens):
        mine = ours[place] if place < len(ours) else -1
        if mine != token and not (mine in stop_ids and token in stop_ids):
            logits = reference.logits[place]
            return [float(logits[token] - logits[mine])]
    return []


def _dtype(options: argparse.Namespace) -> torch.dtype:
    return torch.bfloat16 if options.dtype == "bfloat16" else torch.float32


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Greedy tokens: the engine against transformers.generate.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="chat rows; each row's last message is left out")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--tokens", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
