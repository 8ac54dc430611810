"""Brings the studio's translations to what its sources say; with `--check` it only tells what is missing.

A text that is new is added with nothing as its translation, to be filled in; one that is gone is removed.
"""

import ast
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

SOURCES = Path(__file__).parents[1] / "src" / "tunewise"
WEB, REPORT = SOURCES / "web", SOURCES / "evaluate" / "templates" / "report_body.html.j2"
# Which argument of a call is a text that visitors read.
TEXTS = {"t": 0, "said": 0, "page": 1, "Place": 1, "Preset": 0}


def texts_of(source: str) -> Iterator[str]:
    """Every text of a module, also those within f-strings, which Babel's own reader passes over."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TEXTS:
            place = TEXTS[node.func.id]
            text = node.args[place] if len(node.args) > place else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield text.value


def all_texts() -> set[str]:
    """Every text of the studio, and the headings of the report, which it shows."""
    headings = set(re.findall(r'say\("([^"]+)"\)', REPORT.read_text(encoding="utf-8")))
    return headings | {text for path in WEB.rglob("*.py") for text in texts_of(path.read_text(encoding="utf-8"))}


def translated(catalogue: Catalog) -> dict[str, str]:
    """What is translated, and how."""
    return {str(entry.id): str(entry.string) for entry in catalogue if entry.id and entry.string}


def brought_up(before: Catalog, texts: set[str]) -> str:
    """The file with exactly these texts, sorted, so that two people's additions seldom meet."""
    known = translated(before)
    after = Catalog(locale=before.locale)
    for text in texts:
        after.add(text, known.get(text, ""))
    written = io.BytesIO()
    write_po(written, after, width=118, sort_output=True, no_location=True, omit_header=True)
    header = f'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n"Language: {before.locale}\\n"\n\n'
    return header + written.getvalue().decode().strip() + "\n"


def main() -> int:
    """Write, or compare."""
    texts, missing = all_texts(), 0
    for path in sorted((WEB / "locale").glob("*.po")):
        with path.open("rb") as file:
            catalogue = read_po(file, locale=path.stem)
        absent = sorted(texts - set(translated(catalogue)))
        print(*(f"{path.name}: no translation of {text!r}" for text in absent), sep="\n", end="\n" if absent else "")
        missing += len(absent)
        wanted = brought_up(catalogue, texts)
        if "--check" not in sys.argv:
            path.write_text(wanted, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != wanted:
            print(f"{path.name} is not up to date: run scripts/translations.py")
            missing += 1
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
