"""Tables of every container, encoding and dialect give the same rows, and broken ones say where they are broken."""

import json
from pathlib import Path
from typing import Any

import pytest
from arro3.core import Array, DataType
from arro3.core import Table as ArrowTable
from arro3.io import write_ipc, write_ipc_stream, write_parquet
from hypothesis import given
from hypothesis import strategies as st

from tunewise.data.tables import json_rows
from tunewise.data.tables.source import find_files, parse_source, split_of
from tunewise.data.tables.table import Way, count_rows, head_rows, look, read_rows
from tunewise.errors import DataError

SAVED = Path(__file__).parent / "saved" / "numbers"
ROWS = [
    {"question": 'Say "hé", please,\nin two lines; or | three', "answer": "日本\t語 'x'"},
    {"question": "", "answer": "  blank ends "},
    {"question": "[1, 2]", "answer": '{"a": 1}'},
]


def cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def delimited(rows: list[dict[str, str]], delimiter: str = ",", end: str = "\r\n") -> str:
    names = list(rows[0])
    records = [names, *([row[name] for name in names] for row in rows)]
    return end.join(delimiter.join(cell(value) for value in record) for record in records) + end


def read(path: Path, way: Way = Way()) -> list[dict[str, Any]]:  # noqa: B008 (frozen)
    found = [placed.row for placed in read_rows(look(path, way))]
    assert [row.problem for row in found if row.problem] == []
    return [row.fields for row in found]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_cells_may_hold_delimiters_quotes_and_line_ends(tmp_path: Path, delimiter: str, end: str) -> None:
    assert read(write(tmp_path / "a.csv", delimited(ROWS, delimiter, end))) == ROWS


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "shift_jis", "cp1252", "gb18030"]
)
def test_every_encoding_is_found_and_any_but_utf8_is_told(tmp_path: Path, encoding: str) -> None:
    sentences = {
        "cp1252": "Das Mädchen läuft über die Straße, und die Brötchen sind schön süß",
        "shift_jis": "図書館はどこですか。日本語の文章をここに書きます。",
        "gb18030": "图书馆在哪里？请用中文回答这个问题，谢谢。",
    }
    said = sentences.get(encoding, "日本語 né")
    rows = [{"question": f"{said} {n}", "answer": said} for n in range(30)]
    table = look(write(tmp_path / "a.csv", delimited(rows), encoding), Way())
    assert [placed.row.fields for placed in read_rows(table)] == rows
    assert bool(table.notes) is not encoding.startswith("utf-8")


def test_an_encoding_is_asked_where_two_give_other_letters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "q,a\n" + "Où est la bibliothèque? Das Mädchen kostet £5,là\n" * 9, "cp1252")
    with pytest.raises(DataError, match=r"--encoding cp1252  'Où est la bibliothèque") as refused:
        look(path, Way())
    assert refused.value.code == "ambiguous_encoding"
    assert read(path, Way(encoding="cp1252"))[0]["a"] == "là"


def test_an_encoding_that_was_asked_for_is_used_and_a_wrong_one_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "q,a\nÄ,ö\n", "cp437")
    assert read(path, Way(encoding="cp437")) == [{"q": "Ä", "a": "ö"}]
    for wrong, code in (("utf-8", "wrong_encoding"), ("klingon", "unknown_encoding")):
        with pytest.raises(DataError) as refused:
            look(path, Way(encoding=wrong))
        assert refused.value.code == code


def test_a_few_broken_bytes_in_utf8_are_a_problem_of_their_rows_and_no_other_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("q,a\nwäre,1\nkönnte,2\n".encode() + b"k\xf6nnte,3\n" + "müsste,4\n".encode())
    rows = [placed.row for placed in read_rows(look(path, Way()))]
    assert [(row.line, row.problem.code) for row in rows if row.problem] == [(4, "invalid_utf8")]


def test_excel_says_its_delimiter_in_a_line_before_the_header(tmp_path: Path) -> None:
    rows = [placed.row for placed in read_rows(look(write(tmp_path / "a.csv", "sep=;\r\nq;a\r\n1,5;x\r\n"), Way()))]
    assert [(row.line, row.fields) for row in rows] == [(3, {"q": "1,5", "a": "x"})]


def test_a_delimiter_that_two_signs_could_be_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "q,a;b\n1,2;3\n4,5;6\n")
    with pytest.raises(DataError, match="comma or semicolon; say which") as refused:
        look(path, Way())
    assert refused.value.code == "unknown_delimiter"
    assert read(path, Way(delimiter=";")) == [{"q,a": "1,2", "b": "3"}, {"q,a": "4,5", "b": "6"}]


def test_a_row_of_another_width_and_an_open_quote_are_problems_with_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'q,a\n1,2\n3\n"4\n5",6\n"7,8\n9,10\n')
    rows = [placed.row for placed in read_rows(look(path, Way()))]
    assert [(row.line, row.problem.code if row.problem else None) for row in rows] == [
        (2, None), (3, "wrong_width"), (4, None), (6, "bad_quotes"),
    ]  # fmt: skip


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two columns are called 'a'"):
        read(write(tmp_path / "a.csv", "a,a\n1,2\n"))


texts = st.text('a"\\/\n\t[]{},:é日😀', max_size=8)
json_values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts | st.lists(texts, max_size=3)
json_rows_strategy = st.lists(st.dictionaries(texts, json_values, max_size=4), max_size=6)


@given(rows=json_rows_strategy, piece=st.integers(1, 40), indent=st.sampled_from([None, 1, "\t"]))
def test_an_array_read_in_pieces_of_any_size_is_the_array(
    rows: list[dict[str, Any]], piece: int, indent: int | str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=bool(piece % 2)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "PIECE_CHARS", piece)
        assert [row.fields for row in json_rows.read_json_array(path, "utf_8")] == rows


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"a": 1},\n{"a": 2', 2),
        ('[{"a": 1},\n\n{"a" 2}]', 3),
        ('[{"a": 1}]\n[{"a": 2}]', 2),
        ('[{"a": 1},\n{"a": "x\n"}]', 2),
    ],
    ids=["cut off", "no colon", "two arrays", "line end in a text"],
)
def test_a_broken_array_is_refused_with_the_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(DataError, match=f"line {line}: not valid JSON"):
        read(write(tmp_path / "a.json", text))


def test_a_broken_element_far_from_the_end_is_told_without_reading_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"a": nope},' + '{"a": 1},' * 200_000 + "{}]")
    with pytest.raises(DataError, match="line 1: not valid JSON"):
        read(path)


def test_elements_and_lines_that_are_no_objects_are_problems_with_their_line(tmp_path: Path) -> None:
    for name, text in (("a.json", '[{"a": 1},\n2,\n{"a": 3}]'), ("a.jsonl", '{"a": 1}\n2\n{"a": 3}\n')):
        rows = [placed.row for placed in read_rows(look(write(tmp_path / name, text), Way()))]
        assert [(row.line, row.problem.code if row.problem else None) for row in rows] == [
            (1, None), (2, "not_an_object"), (3, None),
        ]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "zstd parquet", "arrow file", "arrow stream"])
def test_columnar_files_give_the_rows_that_were_written(tmp_path: Path, kind: str) -> None:
    table = ArrowTable.from_pydict({name: Array([row[name] for row in ROWS], DataType.string()) for name in ROWS[0]})
    path = tmp_path / "table"
    match kind:
        case "parquet":
            write_parquet(table, path)
        case "zstd parquet":
            write_parquet(table, path, compression="zstd(3)")
        case "arrow file":
            write_ipc(table, path)
        case _:
            write_ipc_stream(table, path)
    assert read(path) == ROWS
    assert count_rows(look(path, Way())) == (3, False)


@pytest.mark.parametrize("data", [b"PAR1 and nothing more PAR1", b"\xff\xff\xff\xff\x10\0\0\0 nothing more", b"PAR1"])
def test_a_broken_columnar_file_is_an_error_of_the_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match="broken Parquet or Arrow file") as refused:
        read(tmp_path / "a.parquet")
    assert refused.value.code == "unreadable_table"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"\xef\xbb\xbf \n", "empty_file"),
        (b"\x1f\x8b\x08 gzip", "not_text"),
        (b"PK\x03\x04 a workbook", "not_text"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "unknown_format"),
        (b'{\n  "a": 1\n}\n', "not_json_lines"),
    ],
)
def test_what_is_no_table_is_refused_by_its_kind(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError) as refused:
        look(tmp_path / "a", Way())
    assert refused.value.code == code


def test_a_data_set_that_was_saved_has_its_shards_in_order() -> None:
    assert [row["answer"] for row in read(SAVED, Way(split="train"))] == [str(n + 1) for n in range(12)]
    assert [row["answer"] for row in read(SAVED / "test")] == ["21", "22", "23", "24", "25"]


@pytest.mark.parametrize(("split", "code"), [(None, "ambiguous_split"), ("valid", "no_such_split")])
def test_a_split_that_is_open_or_missing_is_told_with_the_choices(split: str | None, code: str) -> None:
    with pytest.raises(DataError, match=r"numbers:train or .*numbers:test") as refused:
        find_files(SAVED, split)
    assert refused.value.code == code


def test_a_directory_of_files_has_the_splits_that_their_names_say(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv", "data/validation.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "q,a\n1,2\n")
    assert [path.name for path in find_files(tmp_path, "train")] == [
        "train-00000-of-00002.csv",
        "train-00001-of-00002.csv",
    ]
    assert [path.name for path in find_files(tmp_path, "dev")] == ["validation.csv"]
    write(tmp_path / "train.jsonl", '{"q": 1}\n')
    with pytest.raises(DataError, match="several tables") as refused:
        find_files(tmp_path, "train")
    assert refused.value.code == "ambiguous_files"


def test_a_source_is_a_name_and_perhaps_a_split(tmp_path: Path) -> None:
    assert parse_source("owner/data:train") == ("owner/data", "train")
    assert parse_source("owner/data") == ("owner/data", None)
    odd = write(tmp_path / "a:b.csv", "q,a\n")
    assert parse_source(str(odd)) == (str(odd), None)
    assert (split_of(Path("default/test/0000.parquet")), split_of(Path("notes.csv"))) == ("test", None)


def test_the_rows_of_a_large_file_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewise.data.tables.table.COUNTED_BYTES", 1000)
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"q": "x" * 100, "a": n}) + "\n" for n in range(5000)))
    rows, estimated = count_rows(look(path, Way()))
    assert estimated
    assert 4500 < rows < 5500
    assert len(head_rows(look(path, Way()))) == 100
