"""Rows that share a long prefix: training with it computed once against training with it computed in every row.

    python benchmarks/train_prefix.py [--rows FILE] [--prefix 600] [--length 120] [--limit 24] [--repeat 3]

The rows are made of the file's words: a system prompt of `--prefix` tokens, the same in all, and `--length` tokens of
each row's own, the last quarter supervised. Both sides are ours, differ in this lever alone, and run in processes of
their own, in turns; the losses have to be the same. The last line is one JSON object.
"""

import argparse
import sys
import tempfile
from itertools import count
from pathlib import Path

from train_rows import rows_of_length
from train_sides import (
    OURS,
    Side,
    add_arguments,
    make_spec,
    measure_tunewise,
    print_outcome,
    ratios,
    run_in_turns,
    summarise,
)
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.run import TrainSpec
from tunewise.data.template import Template
from tunewise.machine import probe
from tunewise.settings import get_settings
from tunewise.train.methods import criterion
from tunewise.train.run import finish, run_steps
from tunewise.train.session import open_session, read_spec

ALONE = "every_row_by_itself"


def main() -> None:
    """Measure both sides, print a table and the JSON line; with --train-alone, be the side without sharing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, limit=24)
    parser.add_argument("--prefix", type=int, default=600, help="tokens of the system prompt")
    parser.add_argument("--length", type=int, default=120, help="tokens of each row's own")
    parser.add_argument("--train-alone", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train_alone:
        train_alone(options.train_alone)
        return
    with tempfile.TemporaryDirectory() as name:
        directory, turns = Path(name), count()
        spec = spec_of(directory, options)
        alone = (sys.executable, __file__, "--train-alone")
        sides = [
            Side(OURS, lambda: measure_tunewise(directory / f"shared-{next(turns)}", spec)),
            Side(ALONE, lambda: measure_tunewise(directory / f"alone-{next(turns)}", spec, trainer=alone)),
        ]
        compared = summarise(run_in_turns(sides, options.repeat))
    print_outcome("train_prefix", ratios(compared)[ALONE], compared, dtype=spec.dtype)


def spec_of(directory: Path, options: argparse.Namespace) -> TrainSpec:
    """A run over rows that begin with the same system prompt."""
    model = find(DEFAULT_MODEL, get_settings())
    words = options.rows.read_bytes().splitlines(keepends=True)
    rows = list(rows_of_length(words, Template.load(model.path), options.length, options.limit, options.prefix))
    file = directory / "train.jsonl"
    file.write_bytes(b"".join(rows))
    return make_spec(model, file, len(rows), in_bfloat16=probe().bfloat16)


def train_alone(directory: Path) -> None:
    """What `python -m tunewise.train` does, without sharing."""
    session = open_session(directory, read_spec(directory))
    session.criterion = criterion(session.spec.objective, share_prefixes=False)
    run_steps(session, lambda: False)
    finish(session)


if __name__ == "__main__":
    main()
