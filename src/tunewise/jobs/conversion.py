"""Uploads that are tables: a copy in rows is made beside them, and it is what trains; the table is kept as it came.

Knows which uploads are taken for tables. JSON lines never are: these are held to OpenAI's rules as they stand.
"""

from pathlib import Path

from tunewise.contracts.importing import Conversion
from tunewise.data.tables.source import is_columnar
from tunewise.errors import DataError, RequestError
from tunewise.jobs.incoming import Incoming, disk_errors

TABLE_SUFFIXES = (".csv", ".tsv", ".json")
SHEET_SUFFIXES = (".xlsx", ".xlsm", ".ods")
SHOWN = 5


def is_table(incoming: Incoming) -> bool:
    """Whether an upload is a table by its bytes, or by its name where it does not begin as JSON lines do."""
    with incoming.path.open("rb") as file:
        head = file.read(4096)
    if is_columnar(head) or incoming.filename.lower().endswith(SHEET_SUFFIXES):
        return True
    return incoming.filename.lower().endswith(TABLE_SUFFIXES) and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(
        b"{"
    )


def convert_upload(incoming: Incoming, place: Path) -> str:
    """Write the rows of a table to `place`; gives the sentence that the file's owner is told.

    Raises:
        RequestError: invalid_file_format, where the table cannot be read, leaves something open, or has a bad row.
        StoreError: disk_full.
    """
    # Loaded when the first table comes: a start loads nothing that can wait.
    from tunewise.data.columns import named
    from tunewise.data.convert import convert, detect, unanswered

    try:
        found = detect(incoming.path)
        if found.mapping is None:
            raise unanswered(found)
        with disk_errors():
            result = convert(incoming.path, found.mapping, place)
    except DataError as error:
        raise _refused(incoming, error.message) from error
    if result.findings:
        place.unlink()
        raise _refused(incoming, _bad_rows(result))
    columns = ", ".join(f"{role} from column {name!r}" for role, name in named(result.mapping).items())
    left = f"; not used: {', '.join(found.unused)}" if found.unused else ""
    encoding = f", {found.encoding.replace('_', '-')}" if found.encoding else ""
    return (
        f"Kept as uploaded ({found.format}{encoding}); a copy of {result.written} {result.to} rows is what trains: "
        f"{columns}{left}"
    )


def _bad_rows(result: Conversion) -> str:
    shown = "; ".join(f"line {one.line}: {one.message} ({one.remedy})" for one in result.findings[:SHOWN])
    count = sum(result.found.values())
    return f"{count} row(s) cannot be converted: {shown}" + (f"; and {count - SHOWN} more" if count > SHOWN else "")


def _refused(incoming: Incoming, why: str) -> RequestError:
    why = why.replace(str(incoming.path), incoming.filename).removeprefix(f"{incoming.filename}: ")
    return RequestError(
        "invalid_file_format",
        f"{incoming.filename}: {why}\nUpload JSON lines, or convert the table first: "
        f"tunewise data convert {incoming.filename}",
        param="file",
    )
