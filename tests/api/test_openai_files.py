"""Files and uploads through the real SDK, every answer validated strictly."""

import base64
import hashlib
import json
import shutil
import time
from pathlib import Path

import openai
import pytest

from api.live import ROW, Live, serving
from tunewise.contracts.jobs import Caller
from tunewise.jobs.files import check_json_lines
from tunewise.jobs.incoming import Receiver, safe_name
from tunewise.jobs.sweep import Sweeper
from tunewise.store import files

ROWS = ROW * 12


def upload(client: openai.OpenAI, data: bytes = ROWS, name: str = "train.jsonl") -> str:
    return client.files.create(file=(name, data), purpose="fine-tune").id


def test_a_file_is_kept_looked_up_read_and_deleted(client: openai.OpenAI, live: Live) -> None:
    made = client.files.create(file=("train.jsonl", ROWS), purpose="fine-tune")
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        len(ROWS),
        "train.jsonl",
        "fine-tune",
        "processed",
    )
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == ROWS
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as refused:
        client.files.retrieve(made.id)
    assert refused.value.code == "file_not_found"
    assert not (live.platform.files_dir / made.id).exists()


def test_files_are_listed_page_by_page_by_purpose_and_order(tmp_path: Path) -> None:
    with serving(tmp_path) as live, live.client() as client:
        made = [upload(client) for _ in range(3)]
        other = client.files.create(file=("a.txt", b"x"), purpose="user_data").id
        assert [file.id for file in client.files.list()] == [other, *reversed(made)]
        assert [file.id for file in client.files.list(purpose="fine-tune", order="asc", limit=1)] == made
        page = client.files.list(limit=2)
        assert (len(page.data), page.has_more) == (2, True)
        with pytest.raises(openai.BadRequestError) as refused:
            client.files.list(after="file-none")
        assert refused.value.code == "invalid_cursor"


@pytest.mark.parametrize("purpose", ["assistants", "batch", "vision", "user_data", "evals"])
def test_every_purpose_is_taken_and_only_training_files_are_looked_into(client: openai.OpenAI, purpose: str) -> None:
    made = client.files.create(file=("x.bin", b"\x00\xff"), purpose=purpose)  # type: ignore[arg-type]
    assert client.files.content(made.id).read() == b"\x00\xff"


def test_a_file_can_be_given_a_life(client: openai.OpenAI) -> None:
    made = client.files.create(
        file=("a.txt", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.expires_at == made.created_at + 3600
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 1})
    assert refused.value.param == "expires_after.seconds"


@pytest.mark.parametrize(
    "data",
    [ROWS, b"\xef\xbb\xbf" + ROWS, ROWS.replace(b"\n", b"\r\n"), ROWS.rstrip(b"\n"), ROWS + b"\n\n"],
    ids=["plain", "byte order mark", "CRLF", "no last line end", "blank lines"],
)
def test_json_lines_are_taken_however_they_end(client: openai.OpenAI, data: bytes) -> None:
    assert client.files.content(upload(client, data)).read() == data


@pytest.mark.parametrize(
    ("data", "line", "hint"),
    [
        (b'{"prompt": "a"\n}', 1, '{"p'),
        (ROW + b"[1]\n", 2, "[1]"),
        (ROW + ROW + b'"text"', 3, '"te'),
        (b"\x80\x81", 1, "\ufffd\ufffd"),
        (b'{"a": "\xff"}', 1, '{"a'),
    ],
)
def test_what_is_no_json_line_is_refused_in_openais_words(
    client: openai.OpenAI, live: Live, data: bytes, line: int, hint: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        upload(client, data)
    body = refused.value.body
    assert isinstance(body, dict)
    assert body["message"] == (
        "Expected file to have JSONL format, where every line is a JSON dictionary. "
        f'Line {line} is not a dictionary (HINT: line starts with: "{hint}...").'
    )
    assert body["type"] == "invalid_request_error"
    assert list(live.platform.incoming_dir.iterdir()) == []


def test_an_empty_file_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        upload(client, b"")
    assert refused.value.code == "empty_file"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.jsonl", "a.jsonl"),
        ("a\x00b\n.jsonl", "ab.jsonl"),
        ("x" * 300, "x" * 255),
        ("..", ".."),
        ("", "file"),
    ],
)
def test_a_name_is_only_a_name(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def test_a_path_in_a_name_reaches_no_other_file(client: openai.OpenAI, live: Live) -> None:
    made = client.files.create(file=("../../../tunewise.db", ROWS), purpose="fine-tune")
    assert made.filename == "tunewise.db"
    assert (live.platform.files_dir / made.id).read_bytes() == ROWS


def test_a_file_that_a_job_reads_is_not_deleted(client: openai.OpenAI, live: Live) -> None:
    file = upload(client)
    job = live.job(file=file)
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.delete(file)
    assert refused.value.code == "file_in_use"
    client.fine_tuning.jobs.cancel(job.id)
    assert client.files.delete(file).deleted


def test_result_files_are_sent_in_base64_where_the_settings_say_so(tmp_path: Path) -> None:
    with serving(tmp_path, result_base64=True) as live, live.client() as client:
        data = b"step,train_loss\n" * 70_000
        receiver = Receiver(live.platform, "step_metrics.csv")
        receiver.write(data)
        from tunewise.jobs.files import create

        caller = Caller(organization="o", project="default", role="admin")
        kept = create(live.platform, caller, receiver.finish(), purpose="fine-tune-results")
        receiver.discard()
        assert base64.b64decode(client.files.content(kept.id).read()) == data
        assert client.files.retrieve(kept.id).purpose == "fine-tune-results"


def test_an_upload_in_parts_becomes_one_file(client: openai.OpenAI) -> None:
    data = ROWS * 1000
    upload = client.uploads.upload_file_chunked(
        file=data,
        filename="big.jsonl",
        bytes=len(data),
        mime_type="application/jsonl",
        purpose="fine-tune",
        part_size=len(data) // 3,
        md5=hashlib.md5(data).hexdigest(),
    )
    assert (upload.status, upload.bytes) == ("completed", len(data))
    assert upload.file
    assert client.files.content(upload.file.id).read() == data


def test_parts_are_put_together_in_the_order_that_is_named(client: openai.OpenAI) -> None:
    upload = client.uploads.create(filename="a", bytes=2, mime_type="text/plain", purpose="user_data")
    first, second = (client.uploads.parts.create(upload.id, data=data).id for data in (b"b", b"a"))
    done = client.uploads.complete(upload.id, part_ids=[second, first])
    assert done.file
    assert client.files.content(done.file.id).read() == b"ab"


@pytest.mark.parametrize(
    ("size", "md5", "code"),
    [(3, None, "size_mismatch"), (2, "0" * 32, "checksum_mismatch"), (2, "zz", "invalid_value")],
)
def test_a_wrong_upload_is_not_completed_and_can_still_be(
    client: openai.OpenAI, size: int, md5: str | None, code: str
) -> None:
    upload = client.uploads.create(filename="a", bytes=size, mime_type="text/plain", purpose="user_data")
    parts = [client.uploads.parts.create(upload.id, data=b"ab").id]
    with pytest.raises(openai.BadRequestError) as refused:
        client.uploads.complete(upload.id, part_ids=parts, md5=md5 or openai.omit)
    assert refused.value.code == code
    if size == 2:
        assert client.uploads.complete(upload.id, part_ids=parts).status == "completed"


def test_an_ended_upload_takes_no_part(client: openai.OpenAI, live: Live) -> None:
    upload = client.uploads.create(filename="a", bytes=2, mime_type="text/plain", purpose="user_data")
    part = client.uploads.parts.create(upload.id, data=b"ab").id
    assert client.uploads.cancel(upload.id).status == "cancelled"
    assert not (live.platform.uploads_dir / upload.id).exists()
    for again in (
        lambda: client.uploads.parts.create(upload.id, data=b"ab"),
        lambda: client.uploads.complete(upload.id, part_ids=[part]),
        lambda: client.uploads.cancel(upload.id),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            again()
        assert refused.value.code == "invalid_upload_state"


def test_an_upload_whose_parts_go_while_it_is_completed_has_ended(client: openai.OpenAI, live: Live) -> None:
    upload = client.uploads.create(filename="a", bytes=2, mime_type="text/plain", purpose="user_data")
    part = client.uploads.parts.create(upload.id, data=b"ab").id
    shutil.rmtree(live.platform.uploads_dir / upload.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.uploads.complete(upload.id, part_ids=[part])
    assert refused.value.code == "invalid_upload_state"


def test_the_sweeper_removes_what_is_due_and_nothing_else(tmp_path: Path) -> None:
    with serving(tmp_path) as live, live.client() as client:
        kept, expired, read = (upload(client) for _ in range(3))
        announced = client.uploads.create(filename="a", bytes=2, mime_type="text/plain", purpose="user_data")
        live.job(file=read)
        with live.platform.database.write() as session:
            for file_id in (expired, read):
                file = files.get(session, "default", file_id)
                assert file
                files.remove(session, "default", file_id)
                files.add(session, file.model_copy(update={"expires_at": 1}))
            session.connection().exec_driver_sql("UPDATE uploads SET expires_at = 1")
        leftover = live.platform.incoming_dir / "leftover"
        leftover.write_bytes(b"x")
        pending = client.uploads.create(filename="a", bytes=2, mime_type="text/plain", purpose="user_data")
        client.uploads.parts.create(pending.id, data=b"ab")
        of_a_crash = live.platform.uploads_dir / "upload_0"
        of_a_crash.mkdir()
        (of_a_crash / "part_0").write_bytes(b"x")
        checkpoint = live.model(live.job())
        unpublished = live.platform.adapters_dir / "ftjob-0-step-1"
        unpublished.mkdir()
        patient = Sweeper(live.platform)
        impatient = Sweeper(live.platform, leftover_seconds=0.01, abandoned_seconds=0.01)
        slow = Receiver(live.platform, "slow")
        patient.sweep()
        assert [file.id for file in client.files.list()] == [read, kept]
        assert {path.name for path in live.platform.files_dir.iterdir()} == {kept, read, ".incoming"}
        assert not (live.platform.uploads_dir / announced.id).exists()
        assert leftover.exists()
        assert of_a_crash.exists()
        assert unpublished.exists()
        impatient.sweep()
        time.sleep(0.02)
        impatient.sweep()
        assert list(live.platform.incoming_dir.iterdir()) == [slow.path]
        slow.discard()
        assert {path.name for path in live.platform.uploads_dir.iterdir()} == {pending.id}
        assert list(live.platform.adapters_dir.iterdir()) == [live.platform.settings.state_dir / checkpoint.adapter]


def test_a_large_training_file_is_checked_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"messages": [{"role": "user", "content": "é" * 500}]}).encode() for _ in range(2000)]
    path.write_bytes(b"\n".join(lines))
    check_json_lines(path, path.stat().st_size)
    lines[1500] = b"{}{}"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(Exception, match="Line 1501"):
        check_json_lines(path, path.stat().st_size)
