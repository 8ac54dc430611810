"""Training speed against TRL, LLaMA-Factory and litgpt, each with settings for a CPU.

    python benchmarks/train_vs_peers.py --environments DIR [--rows FILE] [--limit 96] [--repeat 3]
                                        [--peers trl llamafactory litgpt] [--variants]

Each peer has a virtual environment of its own below `--environments`, made by

    python -m venv DIR/trl
    DIR/trl/bin/pip install torch==2.13.0 trl==1.16.0 peft==0.21.2 transformers==5.23.0
    python -m venv DIR/llamafactory
    DIR/llamafactory/bin/pip install torch==2.13.0 llamafactory==0.9.5
    python -m venv DIR/litgpt
    DIR/litgpt/bin/pip install torch==2.13.0 litgpt==0.5.13

Where torch is a build without CUDA, importing llamafactory fails on torchvision and torchaudio, which PyPI has built
with it. It does without the first, and needs no more of the second than its Python files:

    DIR/llamafactory/bin/pip uninstall torchvision
    rm DIR/llamafactory/lib/python3*/site-packages/torchaudio/lib/*.so

Each side runs in a process of its own, in turns, `--repeat` times; the medians count. All get the same token ids and
loss mask, the same initial adapter, rank 16 on all linear layers, batch 8, learning rate and linear schedule, in the
number format that planning picks for ours. The clock covers the whole first epoch, compilation included, none of the
imports and loading. What the peers do otherwise: litgpt clips no gradients, and in parts of fewer than 8 rows its loss
is the mean of the parts' means; `grouped` variants put the rows into other steps, so that only the mean of their losses
compares.

`--variants` runs every variant below instead of one for each peer, or those that are named. Those of TRL and
LLaMA-Factory that run unasked were the fastest of most of theirs on a CPU with bfloat16 (docs/performance.md), that of
litgpt is a guess: on another kind of machine, run `--variants` first. The ratio is ours against the fastest side of
those that ran. The last line is one JSON object.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from train_sides import (
    OURS,
    Side,
    add_arguments,
    measure_peer,
    measure_tunewise,
    prepare,
    print_outcome,
    ratios,
    run_in_turns,
    summarise,
)
from tunewise.contracts.fine_tuning import Dtype

Settings = dict[str, Any]
NAMES = ("trl", "llamafactory", "litgpt")
GROUPED: Settings = {"train_sampling_strategy": "group_by_length"}


class Peer(NamedTuple):
    """A peer: its driver, its settings for each variant by its own names, and the variant that runs unasked."""

    script: str
    unasked: str
    variants: Mapping[str, Settings]


def peers(dtype: Dtype) -> dict[str, Peer]:
    """The peers with base weights in this number format and activations kept, unless a variant says otherwise."""
    bfloat16 = dtype == "bfloat16"
    eager: Settings = {"model_init_kwargs": {"dtype": dtype, "attn_implementation": "eager"}}
    sdpa: Settings = {"model_init_kwargs": {"dtype": dtype, "attn_implementation": "sdpa"}}
    trl: Settings = {"bf16": bfloat16, "gradient_checkpointing": False}
    llamafactory: Settings = {"bf16": bfloat16, "weights": dtype, "disable_gradient_checkpointing": True}
    litgpt: Settings = {"precision": "bf16-true" if bfloat16 else "32-true"}
    return {
        "trl": Peer(
            script="peer_trl.py",
            unasked="eager",
            variants={
                "checkpointing": trl | sdpa | {"gradient_checkpointing": True},
                "sdpa": trl | sdpa,
                "eager": trl | eager,
                "eager_grouped": trl | eager | GROUPED,
                "eager_padding_free": trl | eager | {"padding_free": True, "max_length": None},
                "eager_compiled": trl | eager | {"torch_compile": True},
            },
        ),
        "llamafactory": Peer(
            script="peer_llamafactory.py",
            unasked="eager_grouped",
            variants={
                "checkpointing": llamafactory | {"flash_attn": "sdpa", "disable_gradient_checkpointing": False},
                "sdpa": llamafactory | {"flash_attn": "sdpa"},
                "eager": llamafactory | {"flash_attn": "disabled"},
                "eager_grouped": llamafactory | GROUPED | {"flash_attn": "disabled", "disable_shuffling": False},
                "eager_packed": llamafactory
                | {"flash_attn": "disabled", "neat_packing": True, "rows_end_to_end": True},
                "eager_compiled": llamafactory | {"flash_attn": "disabled", "torch_compile": True},
            },
        ),
        "litgpt": Peer(
            script="peer_litgpt.py",
            unasked="parts_of_8",
            variants={
                "parts_of_8": litgpt,
                "parts_of_4": litgpt | {"train": {"micro_batch_size": 4}},
                "parts_of_1": litgpt | {"train": {"micro_batch_size": 1}},
            },
        ),
    }


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--environments", type=Path, required=True, help="directory of the peers' environments")
    parser.add_argument("--peers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--variants", nargs="*", help="those named, or all; default: one for each peer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory, turns = Path(name), count()
        spec = prepare(directory, options.rows, options.limit)
        sides = [Side(OURS, lambda: measure_tunewise(directory / f"run-{next(turns)}", spec))]
        sides += peer_sides(directory, options, spec.dtype)
        regrouped = frozenset(side.name for side in sides if side.name.endswith("grouped"))
        compared = summarise(run_in_turns(sides, options.repeat), regrouped)
    against = ratios(compared)
    best = min(against, key=against.__getitem__)
    print(f"ours / {best}, the fastest of the peers: {against[best]:.2f}")
    print_outcome("train_vs_peers", against[best], compared, best=best, dtype=spec.dtype, rows=options.limit)


def peer_sides(directory: Path, options: argparse.Namespace, dtype: Dtype) -> Iterator[Side]:
    """Each chosen variant of each chosen peer."""
    for name in options.peers:
        peer = peers(dtype)[name]
        python = options.environments / name / "bin" / "python"
        for variant, settings in peer.variants.items():
            if variant in chosen(peer, options.variants):
                yield Side(f"{name}:{variant}", partial(measure_peer, python, peer.script, directory, settings))


def chosen(peer: Peer, asked: list[str] | None) -> list[str]:
    """The variants to run: those asked for, all for an empty list, the one that runs unasked where nothing is asked."""
    if asked is None:
        return [peer.unasked]
    return asked or list(peer.variants)


if __name__ == "__main__":
    main()
