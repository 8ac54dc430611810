"""Converting tables: rows a second from CSV, a JSON array and Parquet, against reading the same file and no more.

    python benchmarks/data_convert.py [--megabytes 40]

The last line is one JSON object with name, ratio (of the reader's time for CSV to the whole conversion's) and sides.
"""

import argparse
import csv
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from arro3.core import Array, DataType, Table
from arro3.io import write_parquet

from tunewise.contracts.importing import ColumnMapping
from tunewise.data.convert import convert, detect

MAPPING = ColumnMapping(to="chat", prompt="question", completion="answer")
WORDS = [line.strip() for line in Path(__file__).read_text().replace('"', " ").split() if line.isalpha()]


def make_rows(megabytes: float) -> list[tuple[str, str]]:
    """Questions of about 80 letters and answers of about 240, some with line ends and quotes."""
    chance = random.Random(7)
    rows: list[tuple[str, str]] = []
    size = 0
    while size < megabytes * 1e6:
        question = " ".join(chance.choices(WORDS, k=14))
        answer = " ".join(chance.choices(WORDS, k=40)).replace("a", '"a"\n', chance.randrange(2))
        rows.append((question, answer))
        size += len(question) + len(answer) + 6
    return rows


def write_all(rows: list[tuple[str, str]], folder: Path) -> list[Path]:
    """The rows as CSV, JSON array and Parquet."""
    paths = [folder / "rows.csv", folder / "rows.json", folder / "rows.parquet"]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])
    paths[1].write_text(json.dumps([{"question": q, "answer": a} for q, a in rows]), encoding="utf-8")
    columns = dict(zip(("question", "answer"), map(list, zip(*rows, strict=True)), strict=True))
    write_parquet(Table.from_pydict({n: Array(v, DataType.string()) for n, v in columns.items()}), paths[2])
    return paths


def seconds(work: Callable[[], object]) -> float:
    """Processor time, so that other processes do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def read_csv(path: Path) -> int:
    """What the reader alone takes."""
    with path.open(newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.reader(file))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=40)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = make_rows(megabytes)
        count = len(rows)
        paths = write_all(rows, folder)
        del rows
        sides = {"csv.reader alone": round(count / seconds(partial(read_csv, paths[0])))}
        for path in paths:
            took = seconds(partial(convert, path, MAPPING, folder / "out.jsonl"))
            sides[f"convert {path.suffix}"] = round(count / took)
            looked = seconds(partial(detect, path))
            size = path.stat().st_size / 1e6
            print(f"{path.name}: {size:.0f} MB, {count:,} rows, {took:.1f} s; looked at in {looked:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ratio = sides["convert .csv"] / sides["csv.reader alone"]
    result = {"name": "data_convert", "ratio": round(ratio, 3), "sides": sides, "peak_mb_with_the_rows": round(peak)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
