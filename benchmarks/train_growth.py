"""How training's cost grows: with the rows, with their length, with the LoRA rank; tokens per second and peak memory.

    python benchmarks/train_growth.py [--rows FILE] [--tables rows lengths ranks] [--row-counts 24 48 96 192]
                                      [--row-tokens 128 512 2048] [--tokens 16384] [--lora-ranks 4 16 64 256]

Every cell is one `python -m tunewise.train` of one epoch in a process of its own, with the settings of train_sides.py.
`rows` takes the first rows of the file, `ranks` its smallest count of them. `lengths` cuts the file's own words into
rows of so many tokens, of which the last quarter is the answer, and keeps the sum of tokens the same.

The cost is seconds per token against the table's first cell: 1.00 all the way down is growth in proportion. `later` is
the speed of the second half of the steps, when what is done once (probing, compiling, first touches of memory) is past.
The last line is one JSON object; its ratio is the highest cost in the `rows` table.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, assert_never, get_args

from train_rows import rows_of_length
from train_sides import DATA, make_spec, steps_of, train
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.run import BaseModelRef, LoraSpec, TrainSpec
from tunewise.data.template import Template
from tunewise.machine import probe
from tunewise.settings import get_settings

Table = Literal["rows", "lengths", "ranks"]


class Cell(NamedTuple):
    """One run: what was varied, its mean row length, how fast it was and how large; None where it had one step."""

    label: str
    row_tokens: float
    tokens_per_second: float
    later_tokens_per_second: float | None
    peak_memory_bytes: int


def main() -> None:
    """Run the tables that are asked for, print them and the JSON line."""
    options = _options()
    model = find(DEFAULT_MODEL, get_settings())
    tables: dict[Table, list[Cell]] = {}
    with tempfile.TemporaryDirectory() as name:
        for table in options.tables:
            print(f"{table}\n{'':>8} tokens/row   tok/s   later   peak GiB   cost")
            tables[table] = []
            for label, spec in runs(table, Path(name), model, options):
                tables[table].append(measure(label, spec, Path(name) / f"{table}-{label}"))
                show(tables[table])
    costs = [cost(tables["rows"], cell) for cell in tables.get("rows", [])]
    figures = {
        table: [cell._asdict() | {"cost": cost(cells, cell)} for cell in cells] for table, cells in tables.items()
    }
    print(json.dumps({"name": "train_growth", "ratio": max(costs, default=None), "sides": figures}))


def runs(
    table: Table, directory: Path, model: BaseModelRef, options: argparse.Namespace
) -> Iterator[tuple[str, TrainSpec]]:
    """The label and the spec of each cell of a table."""
    lines = options.rows.read_bytes().splitlines(keepends=True)
    match table:
        case "rows":
            for count in options.row_counts:
                yield str(count), spec_of(directory / f"rows-{count}.jsonl", model, lines[:count])
        case "lengths":
            for length in options.row_tokens:
                rows = list(rows_of_length(lines, Template.load(model.path), length, options.tokens // length))
                yield str(length), spec_of(directory / f"lengths-{length}.jsonl", model, rows)
        case "ranks":
            spec = spec_of(directory / "ranks.jsonl", model, lines[: min(options.row_counts)])
            for rank in options.lora_ranks:
                lora = LoraSpec(rank=rank, alpha=2.0 * rank, dropout=0.0, targets="all-linear")
                yield str(rank), spec.model_copy(update={"lora": lora})
        case _:
            assert_never(table)


def spec_of(file: Path, model: BaseModelRef, lines: Sequence[bytes]) -> TrainSpec:
    """A run over these rows."""
    file.write_bytes(b"".join(lines))
    return make_spec(model, file, len(lines), in_bfloat16=probe().bfloat16)


def measure(label: str, spec: TrainSpec, directory: Path) -> Cell:
    """Train one cell."""
    result = train(directory, spec)
    steps = steps_of(directory)
    middle, last = steps[(len(steps) - 1) // 2], steps[-1]
    later = (last.tokens - middle.tokens) / (last.seconds - middle.seconds) if len(steps) > 1 else None
    return Cell(
        label=label,
        row_tokens=round(result.trained_tokens / result.rows.trained, 1),
        tokens_per_second=round(result.tokens_per_second, 1),
        later_tokens_per_second=later and round(later, 1),
        peak_memory_bytes=result.peak_memory_bytes,
    )


def cost(table: Sequence[Cell], cell: Cell) -> float:
    """Seconds per token, the table's first cell being 1."""
    return round(table[0].tokens_per_second / cell.tokens_per_second, 3)


def show(table: Sequence[Cell]) -> None:
    """Print the newest cell."""
    cell = table[-1]
    later = f"{cell.later_tokens_per_second:7.1f}" if cell.later_tokens_per_second else f"{'-':>7}"
    print(
        f"{cell.label:>8} {cell.row_tokens:10.1f} {cell.tokens_per_second:7.1f} {later} "
        f"{cell.peak_memory_bytes / 2**30:10.2f} {cost(table, cell):6.2f}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=next((path for path in DATA if path.is_file()), DATA[-1]))
    parser.add_argument("--tables", nargs="+", choices=get_args(Table), default=get_args(Table))
    parser.add_argument("--row-counts", nargs="+", type=int, default=[24, 48, 96, 192])
    parser.add_argument("--row-tokens", nargs="+", type=int, default=[128, 512, 2048])
    parser.add_argument("--tokens", type=int, default=16384, help="in each cell of the table of lengths")
    parser.add_argument("--lora-ranks", nargs="+", type=int, default=[4, 16, 64, 256])
    return parser.parse_args()


if __name__ == "__main__":
    main()
