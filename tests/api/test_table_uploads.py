"""Tables uploaded to train on, through the real SDK: kept as they came, their rows beside them, and nothing guessed."""

import json
from pathlib import Path

import openai
import pytest
from arro3.core import Array, DataType, Table
from arro3.io import write_parquet

from api.live import BASE, ROW, Live
from tunewise.contracts.jobs import Caller
from tunewise.jobs import files
from tunewise.jobs.sweep import Sweeper

CSV = ("question,answer,source\n" + "".join(f'"What is {n} and {n}?",It is {2 * n}.,web\n' for n in range(12))).encode()


def refusal(client: openai.OpenAI, name: str, data: bytes) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=(name, data), purpose="fine-tune")
    return refused.value


def rows_of(live: Live, file_id: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in live.platform.rows_of(file_id).read_text().splitlines()]


def test_a_clear_table_is_kept_as_it_came_and_its_rows_beside_it(client: openai.OpenAI, live: Live) -> None:
    made = client.files.create(file=("numbers.csv", CSV), purpose="fine-tune")
    assert (made.filename, made.bytes, made.status) == ("numbers.csv", len(CSV), "processed")
    assert client.files.content(made.id).read() == CSV
    assert made.status_details == (
        "Kept as uploaded (csv, utf-8); a copy of 12 chat rows is what trains: prompt from column 'question', "
        "completion from column 'answer'; not used: source"
    )
    assert client.files.retrieve(made.id) == made
    assert rows_of(live, made.id)[3] == {
        "messages": [{"role": "user", "content": "What is 3 and 3?"}, {"role": "assistant", "content": "It is 6."}]
    }
    assert client.fine_tuning.jobs.create(model=BASE, training_file=made.id).training_file == made.id


def test_parquet_is_known_by_its_bytes_and_json_by_its_name(client: openai.OpenAI, live: Live, tmp_path: Path) -> None:
    words = {"prompt": [f"q{n}" for n in range(12)], "completion": [f"a{n}" for n in range(12)]}
    write_parquet(Table.from_pydict({name: Array(v, DataType.string()) for name, v in words.items()}), tmp_path / "t")
    array = json.dumps([{"instruction": q, "output": a} for q, a in zip(*words.values(), strict=True)]).encode()
    for name, data in (("upload", (tmp_path / "t").read_bytes()), ("rows.json", array)):
        made = client.files.create(file=(name, data), purpose="fine-tune")
        assert len(rows_of(live, made.id)) == 12
        assert client.files.content(made.id).read() == data


def test_json_lines_are_held_to_openais_rules_whatever_their_name(client: openai.OpenAI, live: Live) -> None:
    made = client.files.create(file=("rows.json", ROW * 12), purpose="fine-tune")
    assert made.status_details is None
    assert not live.platform.rows_copy(made.id).exists()
    for name in ("rows.jsonl", "rows", "rows.txt"):
        assert "Line 1 is not a dictionary" in refusal(client, name, CSV).message


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (
            "t.csv",
            CSV.replace(b"question", b"text"),
            ["--map prompt=text", "--map prompt=source", "data convert t.csv"],
        ),
        ("t.csv", CSV + b"lost,,x\n", ["1 row(s) cannot be converted: line 14:", "no content"]),
        ("t.csv", CSV + b'"lost\n', ["line 14:", "quotes are wrong"]),
        ("t.json", b'[{"prompt": "q", "completion": "a"},', ["t.json, line 1: not valid JSON"]),
        ("t.csv", b"PAR1 broken", ["t.csv: is a broken Parquet or Arrow file"]),
        ("t.csv", "q,a\nOù là,è\n".encode("cp1252"), ["t.csv"]),
    ],
    ids=["columns open", "bad row", "open quote", "cut off", "broken parquet", "encoding"],
)
def test_a_table_that_leaves_something_open_is_refused_and_leaves_nothing(
    client: openai.OpenAI, live: Live, name: str, data: bytes, words: list[str]
) -> None:
    before = sorted(path.name for path in live.platform.files_dir.iterdir())
    refused = refusal(client, name, data)
    assert (refused.code, refused.param) == ("invalid_file_format", "file")
    assert [word for word in words if word not in refused.message] == []
    assert str(live.platform.files_dir) not in refused.message
    assert sorted(path.name for path in live.platform.files_dir.iterdir()) == before
    assert list(live.platform.incoming_dir.iterdir()) == []


def test_other_purposes_are_not_looked_into(client: openai.OpenAI, live: Live) -> None:
    made = client.files.create(file=("numbers.csv", CSV), purpose="user_data")
    assert made.status_details is None
    assert not live.platform.rows_copy(made.id).exists()


def test_a_table_in_parts_is_converted_when_it_is_whole(client: openai.OpenAI, live: Live) -> None:
    upload = client.uploads.create(bytes=len(CSV), filename="n.csv", mime_type="text/csv", purpose="fine-tune")
    parts = [client.uploads.parts.create(upload.id, data=data).id for data in (CSV[:100], CSV[100:])]
    done = client.uploads.complete(upload.id, part_ids=parts)
    assert done.file is not None
    assert len(rows_of(live, done.file.id)) == 12


def test_the_rows_go_with_the_file_and_are_no_leftover_before(client: openai.OpenAI, live: Live) -> None:
    made = client.files.create(file=("numbers.csv", CSV), purpose="fine-tune")
    sweeper = Sweeper(live.platform, leftover_seconds=0)
    sweeper.sweep()
    sweeper.sweep()
    assert live.platform.rows_copy(made.id).exists()
    caller = Caller(organization=live.platform.settings.organization, project="default", role="admin")
    files.delete(live.platform, caller, made.id)
    assert not [path for path in live.platform.files_dir.iterdir() if path.name.startswith(made.id)]
