"""Parquet and Arrow files, batch by batch; with them what `datasets` writes with `save_to_disk`.

Knows arro3, a binding of the Rust Arrow libraries (docs/adr/0015 says why not pyarrow). Rows are numbered from 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from arro3.core import Array, RecordBatch, RecordBatchReader
from arro3.io import read_ipc, read_ipc_stream, read_parquet

from tunewise.data.problems import shorten
from tunewise.data.tables.row import TableRow
from tunewise.data.tables.source import ARROW_FILE, PARQUET
from tunewise.errors import DataError

BATCH_ROWS = 1024


def read_columnar(path: Path) -> Iterator[TableRow]:
    """Each row of a Parquet file, an Arrow file or an Arrow stream.

    Raises:
        DataError: unreadable_table.
    """
    number = 1
    for batch in _batches(path):
        for fields in _rows(batch):
            yield TableRow(number, fields)
            number += 1


def count_columnar(path: Path) -> int:
    """The number of rows, their columns decoded and left unread.

    Raises:
        DataError: unreadable_table.
    """
    return sum(batch.num_rows for batch in _batches(path))


def column_names(path: Path) -> list[str]:
    """The columns, also of a table without rows.

    Raises:
        DataError: unreadable_table.
    """
    with _told(path):
        return [str(name) for name in _reader(path).schema.names]


def _batches(path: Path) -> Iterator[RecordBatch]:
    with _told(path):
        batches = iter(_reader(path))
    while True:
        with _told(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _reader(path: Path) -> RecordBatchReader:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(PARQUET):
        return read_parquet(path, batch_size=BATCH_ROWS)
    return read_ipc(path) if head.startswith(ARROW_FILE) else read_ipc_stream(path)


def _rows(batch: RecordBatch) -> list[dict[str, object]]:
    # A list at run time, whatever the stub says.
    return cast(list[dict[str, object]], Array.from_arrow(batch.to_struct_array()).to_pylist())


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say which file is broken.

    Raises:
        DataError: unreadable_table.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise DataError(
            "unreadable_table",
            f"{path}: is a broken Parquet or Arrow file: {shorten(str(error), 200)}; was it cut off? Write it again",
            param=str(path),
        ) from error
