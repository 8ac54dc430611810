"""Workbooks as Excel writes them, of the cells that a test gives."""

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr
from zipfile import ZIP_DEFLATED, ZipFile

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
DATE = 1  # the style of the cells in `styles`


def text(place: str, value: str) -> str:
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'


def value(place: str, written: str, kind: str = "n", style: int = 0) -> str:
    return f'<c r="{place}" t="{kind}" s="{style}"><v>{written}</v></c>'


def sheet(rows: dict[int, list[str]], merged: tuple[str, ...] = ()) -> str:
    inside = "".join(f'<row r="{number}">{"".join(cells)}</row>' for number, cells in rows.items())
    joined = "".join(f'<mergeCell ref="{place}"/>' for place in merged)
    ranges = f"<mergeCells>{joined}</mergeCells>" if merged else ""
    return f'<worksheet xmlns="{MAIN}"><sheetData>{inside}</sheetData>{ranges}</worksheet>'


def workbook(path: Path, sheets: dict[str, str], hidden: tuple[str, ...] = ()) -> Path:
    """A file as Excel writes it, with these sheets."""
    numbered = list(enumerate(sheets, start=1))
    types = "".join(
        f'<Override PartName="/xl/worksheets/sheet{n}.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        'spreadsheetml.worksheet+xml"/>'
        for n, _ in numbered
    )
    listed = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{n}" r:id="r{n}" state="{("visible", "hidden")[name in hidden]}"/>'
        for n, name in numbered
    )
    links = "".join(
        f'<Relationship Id="r{n}" Type="{LINKS}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n, _ in numbered
    )
    with ZipFile(path, "w", ZIP_DEFLATED) as packed:
        packed.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" ContentType="application/vnd.'
            'openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="application/'
            f'vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>{types}</Types>',
        )
        packed.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r0" Type="{LINKS}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        packed.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{MAIN}" xmlns:r="{LINKS}"><sheets>{listed}</sheets></workbook>'
        )
        packed.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{PACKAGE}/relationships">{links}<Relationship Id="s" Type="{LINKS}/styles" '
            'Target="styles.xml"/></Relationships>',
        )
        packed.writestr(
            "xl/styles.xml",
            f'<styleSheet xmlns="{MAIN}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
            "</styleSheet>",
        )
        for n, name in numbered:
            packed.writestr(f"xl/worksheets/sheet{n}.xml", sheets[name])
    return path


HEADER = [text("A1", "question"), text("B1", "answer")]
ROWS = {1: HEADER, 2: [text("A2", " Wie heißt\n<du>? "), text("B2", "日本")], 3: [text("A3", "q"), text("B3", "a")]}
