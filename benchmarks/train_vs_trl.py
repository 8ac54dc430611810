"""Training speed against `trl.SFTTrainer` with its defaults: useful tokens per second, memory, and the same losses.

    pip install trl
    python benchmarks/train_vs_trl.py [--rows FILE] [--limit 96] [--repeat 3] [--sides trl trl_float32]

Each side runs in a process of its own, in turns, `--repeat` times; the medians count. Both see the same token ids, the
same loss mask, rows in the same order, the same initial adapter, rank, batch, learning rate and schedule; all else of
TRL is its default (bfloat16, activation checkpointing, its own loss). On a CPU without bfloat16 instructions that
default takes minutes a step, so there the side is TRL in float32 unless `--sides trl` asks for the default (`--limit 2`
is enough to see it). The clock covers the whole first epoch, none of the imports and loading. The last line of the
output is one JSON object.
"""

import argparse
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

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

TRL_SIDES = {"trl": {}, "trl_float32": {"bf16": False, "model_init_kwargs": {"dtype": "float32"}}}


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--sides", nargs="+", choices=TRL_SIDES, help="what to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory, turns = Path(name), count()
        spec = prepare(directory, options.rows, options.limit)
        chosen = options.sides or (["trl"] if spec.dtype == "bfloat16" else ["trl_float32"])
        trl = partial(measure_peer, Path(sys.executable), "peer_trl.py", directory)
        sides = [
            Side(OURS, lambda: measure_tunewise(directory / f"run-{next(turns)}", spec)),
            *(Side(side, partial(trl, TRL_SIDES[side])) for side in chosen),
        ]
        compared = summarise(run_in_turns(sides, options.repeat))
    against = ratios(compared)
    print_outcome("train_vs_trl", against.get("trl", min(against.values())), compared, dtype=spec.dtype)


if __name__ == "__main__":
    main()
