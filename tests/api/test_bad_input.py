"""What must end in a clear 4xx, with a server that goes on: size, nesting, compression, slowness, broken forms."""

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from api.live import BASE, ROW, Live, serving
from tunewise.api.limits import MAX_DEPTH, _Bounded, refuse_depth
from tunewise.errors import RequestError
from tunewise.store.db import Database

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
JOBS, FILES = "/v1/fine_tuning/jobs", "/v1/files"
DEPLOYMENT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a/deployments/d"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("small"), read_seconds=1.0, max_upload_mb=2) as server:
        yield server


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


def wandb(**texts: str) -> bytes:
    return json.dumps(
        {"model": "m", "training_file": "f", "integrations": [{"type": "wandb", "wandb": texts}]}
    ).encode()


END = b"--b--\r\n"
LONG = {"test_file": "f", "graders": [{"type": "exact_match", "name": "n", "reference": "r" * 100_000}]}
FILE, PURPOSE = part("file", ROW, "a.jsonl"), part("purpose", b"fine-tune")
BAD: dict[str, tuple[str, bytes, dict[str, str], int, str]] = {
    "100,000 arrays deep": (JOBS, b"[" * 100_000, JSON, 400, "invalid_json"),
    "100,000 objects deep": (JOBS, b'{"a":' * 100_000, JSON, 400, "invalid_json"),
    "deep in metadata": (
        JOBS,
        b'{"metadata":' + b"[" * 900 + b"]" * 900 + b"}",
        JSON,
        400,
        "invalid_json",
    ),
    "deep but allowed": (
        JOBS,
        b'{"metadata":' + b"[" * 150 + b"]" * 150 + b"}",
        JSON,
        400,
        "missing_required_parameter",
    ),
    "no JSON": (JOBS, b"{", JSON, 400, "invalid_json"),
    "no UTF-8": (JOBS, b'{"model": "\xff"}', JSON, 400, "invalid_json"),
    "an array": (JOBS, b"[]", JSON, 400, "invalid_json"),
    "nothing": (JOBS, b"", JSON, 400, "invalid_json"),
    "no content type": (JOBS, b'{"model": "m"}', {"Content-Type": "text/plain"}, 400, "invalid_json"),
    "a lone surrogate": (JOBS, b'{"model": "\\ud800", "training_file": "f"}', JSON, 400, "invalid_value"),
    "a NUL": (JOBS, b'{"model": "m\\u0000", "training_file": "f"}', JSON, 400, "invalid_value"),
    "infinity": (
        JOBS,
        b'{"model":"m","training_file":"f","hyperparameters":{"learning_rate_multiplier":Infinity}}',
        JSON,
        400,
        "invalid_value",
    ),
    "an endless scale": (
        JOBS,
        b'{"model":"m","training_file":"f","training":{"lora":{"alpha":1e999}}}',
        JSON,
        400,
        "invalid_value",
    ),
    "a number of 5,000 digits": (JOBS, b'{"model":"m","training_file":"f","seed":' + b"9" * 5000 + b"}", JSON, 400, ""),
    "a project name of 129 characters": (JOBS, wandb(project="p" * 129), JSON, 400, "invalid_value"),
    "a run name of 129 characters": (JOBS, wandb(project="p", name="n" * 129), JSON, 400, "invalid_value"),
    "an entity of 129 characters": (JOBS, wandb(project="p", entity="e" * 129), JSON, 400, "invalid_value"),
    "a training type of 65 characters": (
        "/openai/v1/fine_tuning/jobs",
        json.dumps({"model": "m", "training_file": "f", "trainingType": "t" * 65}).encode(),
        JSON,
        400,
        "invalid_value",
    ),
    "a model name of 513 characters": (
        "/v1/chat/completions",
        json.dumps({"model": "m" * 513, "messages": []}).encode(),
        JSON,
        400,
        "invalid_value",
    ),
    "an upload's name of 5,000 characters": (
        "/v1/uploads",
        json.dumps({"filename": "f" * 5000, "purpose": "batch", "bytes": 1, "mime_type": "m"}).encode(),
        JSON,
        400,
        "invalid_value",
    ),
    "a large JSON body": (JOBS, b" " * (11 * 1024 * 1024), JSON, 413, "body_too_large"),
    "a form where JSON belongs": (JOBS, FILE + PURPOSE + END, FORM, 400, "invalid_json"),
    "a gzip bomb": (
        JOBS,
        gzip.compress(b" " * 10_000_000),
        {**JSON, "Content-Encoding": "gzip"},
        415,
        "unsupported_encoding",
    ),
    "a compressed file": (FILES, b"x", {**FORM, "Content-Encoding": "br"}, 415, "unsupported_encoding"),
    "a large file": (FILES, part("file", b"x" * 4_000_000, "a") + END, FORM, 413, "body_too_large"),
    "no boundary": (FILES, FILE, {"Content-Type": "multipart/form-data"}, 400, "invalid_multipart"),
    "JSON where a form belongs": (FILES, b"{}", JSON, 400, "invalid_multipart"),
    "a form without an end": (FILES, FILE + PURPOSE, FORM, 400, "invalid_multipart"),
    "a form of noise": (FILES, b"\x00\x01noise" * 100, FORM, 400, "invalid_multipart"),
    "a part without a name": (
        FILES,
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
        FORM,
        400,
        "invalid_multipart",
    ),
    "a part without headers": (FILES, b"--b\r\n\r\nx\r\n" + END, FORM, 400, "invalid_multipart"),
    "no file": (FILES, PURPOSE + END, FORM, 400, "missing_required_parameter"),
    "two files": (FILES, FILE + FILE + PURPOSE + END, FORM, 400, "invalid_multipart"),
    "no purpose": (FILES, FILE + END, FORM, 400, "missing_required_parameter"),
    "a wrong purpose": (FILES, FILE + part("purpose", b"fun") + END, FORM, 400, "invalid_value"),
    "an unknown field": (FILES, FILE + PURPOSE + part("colour", b"red") + END, FORM, 400, "unknown_parameter"),
    "a field of 100 kB": (FILES, FILE + part("purpose", b"x" * 100_000) + END, FORM, 400, "invalid_multipart"),
    "a thousand fields": (
        FILES,
        b"".join(part(f"f{n}", b"x") for n in range(1000)) + END,
        FORM,
        400,
        "invalid_multipart",
    ),
    "a field that is no text": (FILES, FILE + part("purpose", b"\xff") + END, FORM, 400, "invalid_multipart"),
    "brackets that clash": (
        FILES,
        FILE + PURPOSE + part("purpose[x]", b"1") + END,
        FORM,
        400,
        "",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_clear_4xx_and_the_server_goes_on(live: Live, case: str) -> None:
    path, body, headers, status, code = BAD[case]
    answer = live.http.post(path, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code or (not code and error["code"])
    assert answer.headers["x-should-retry"] == "false"
    assert list(live.platform.incoming_dir.iterdir()) == []
    assert live.http.get("/healthz").status_code == 200


def test_an_evaluation_is_refused_for_its_length_and_nothing_else(live: Live) -> None:
    body = {"model": "m", "training_file": "f", "evaluation": LONG}
    error = live.http.post(JOBS, json=body).json()["error"]
    assert (error["param"], "100,000 are allowed" in error["message"]) == ("evaluation", True)


URLS: dict[str, tuple[str, int]] = {
    "traversal": ("/v1/files/..%2f..%2ftunewise.db/content", 404),
    "traversal in a model": ("/v1/models/..%2f..%2ftunewise.db", 404),
    "NUL in the path": ("/v1/files/a%00b", 400),
    "NUL in the query": ("/v1/files?after=%00", 400),
    "no UTF-8 in the path": ("/v1/files/%ff%fe", 404),
    "a limit of 0": ("/v1/files?limit=0", 400),
    "a limit of text": ("/v1/fine_tuning/jobs?limit=many", 400),
    "a limit beyond": ("/v1/fine_tuning/jobs?limit=101", 400),
    "an order of text": ("/v1/files?order=up", 400),
    "an id of 513 characters": ("/v1/files/" + "f" * 513, 400),
    "a cursor of 513 characters": ("/v1/files?after=" + "f" * 513, 400),
    "metadata that is no filter": ("/v1/fine_tuning/jobs?metadata=x", 400),
    "metadata without an end": ("/v1/fine_tuning/jobs?metadata[a=1", 400),
    "metadata and none": ("/v1/fine_tuning/jobs?metadata[a]=1&metadata=null", 400),
    "no such cursor": ("/v1/fine_tuning/jobs?after=ftjob-none", 400),
    "no such URL": ("/v1/nothing", 404),
    "a quote in a metadata key": ("/v1/fine_tuning/jobs?metadata[a%22b'%5D]=1", 200),
}


@pytest.mark.parametrize("case", URLS)
def test_bad_urls_are_answered_in_the_envelope(live: Live, case: str) -> None:
    url, status = URLS[case]
    answer = live.http.get(url)
    assert answer.status_code == status, answer.text
    assert status == 200 or set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("url", "param"),
    [
        ("/v1/files?colour=red", "colour"),
        ("/v1/files?limit=5&limit[x]=5", "limit[x]"),
        ("/v1/models?limit=5", "limit"),
        ("/v1/files?api-version=2024-10-21", "api-version"),
        ("/openai/files?api-version=2024-10-21&colour=red", "colour"),
        ("/openai/v1/models?api-version=preview", None),
        (f"{DEPLOYMENT}?api-version=2024-10-01&colour=red", "colour"),
        ("/v1/fine_tuning/jobs?colour=red", "colour"),
        ("/healthz?probe=1", None),
    ],
)
def test_a_query_parameter_that_would_be_ignored_is_refused_by_name(live: Live, url: str, param: str | None) -> None:
    answer = live.http.get(url)
    if param is None:
        assert answer.status_code == 200, answer.text
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter")
        assert answer.json()["error"]["param"] == param


def test_a_wrong_method_is_answered_in_the_envelope(live: Live) -> None:
    answer = live.http.put("/v1/files")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def exchange(live: Live, *sends: bytes, pause: float = 0.0) -> bytes:
    """Raw bytes to the server, and all that it answers until it closes."""
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        answer = b""
        with suppress(BrokenPipeError, ConnectionResetError):
            for data in sends:
                connection.sendall(data)
                time.sleep(pause)
            while piece := connection.recv(65536):
                answer += piece
        return answer


@pytest.mark.parametrize("path", [JOBS, FILES])
def test_a_client_that_stops_in_the_middle_of_a_body_is_let_go(live: Live, path: str) -> None:
    kind = FORM if path == FILES else JSON
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind['Content-Type']}\r\n"
    head += "Content-Length: 5000\r\n\r\n"
    started = time.monotonic()
    answer = exchange(live, head.encode() + FILE[:40])
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"x-should-retry: false" in answer
    assert time.monotonic() - started < 5
    assert list(live.platform.incoming_dir.iterdir()) == []


def test_a_json_body_that_drips_is_let_go(live: Live) -> None:
    head = f"POST {JOBS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    started = time.monotonic()
    exchange(live, head.encode(), *[b" "] * 50, pause=0.2)
    assert time.monotonic() - started < 5


def test_a_body_without_a_length_is_refused_while_it_comes(live: Live) -> None:
    def endless() -> Iterator[bytes]:
        yield part("file", b"", "a")[:-2]
        for _ in range(100):
            yield b"x" * 100_000

    answer = live.http.post(FILES, content=endless(), headers=FORM)
    assert answer.status_code == 413
    assert list(live.platform.incoming_dir.iterdir()) == []


def test_an_unexpected_failure_is_a_500_without_details_and_the_log_has_them(
    live: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(Database, "read", broken)
    answer = live.http.get("/v1/files", headers={"x-request-id": "mine-1", "Authorization": "Bearer sk-secret"})
    monkeypatch.undo()
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine-1")
    assert "secret detail" not in answer.text
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert any("secret detail" in line.get("traceback", "") for line in lines if line["request_id"] == "mine-1")
    assert not any("sk-secret" in json.dumps(line) for line in lines)


def test_depth_counts_no_brackets_in_strings_and_costs_one_pass() -> None:
    refuse_depth(json.dumps({"text": "[" * 10_000, "quoted": '\\"[{' * 1000}).encode())
    refuse_depth(b"[]" * 10_000)
    refuse_depth(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(RequestError):
        refuse_depth(b"[" * (MAX_DEPTH + 1))
    started = time.perf_counter()
    refuse_depth(b"[" * 100 + b"]" * 100 + b'"' + b'\\"' * 4_000_000 + b"[" * 500)
    assert time.perf_counter() - started < 5


def test_files_may_be_as_large_as_the_setting_says(tmp_path: Path) -> None:
    with serving(tmp_path, max_upload_mb=1) as small:
        form = {"file": ("a", b"x" * 1024 * 1024), "purpose": (None, b"user_data")}
        assert small.http.post(FILES, files=form).status_code == 200


def test_a_number_that_no_database_holds_is_refused(live: Live) -> None:
    body = {"sku": {"name": "s", "capacity": 10**30}, "properties": {"model": {"name": BASE}}}
    answer = live.http.put(DEPLOYMENT, params={"api-version": "2024-10-01"}, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "sku.capacity")


def test_a_body_that_comes_after_its_refusal_does_not_lose_the_answer(live: Live) -> None:
    head = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 5000\r\n\r\n"
    assert exchange(live, head.encode(), b"x" * 5000, pause=0.2).startswith(b"HTTP/1.1 415")


@pytest.mark.parametrize("attempt", range(5))
def test_the_time_of_a_body_ends_also_when_a_piece_comes_at_that_moment(attempt: int) -> None:
    ended = time.monotonic() + 20.0  # longer than a busy machine may stall

    async def drip() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": time.monotonic() < ended}

    async def read() -> None:
        async with asyncio.timeout(0.01 + attempt / 1000):
            await _Bounded(drip, 1, 30.0).read_ahead()

    with pytest.raises(TimeoutError):
        asyncio.run(read())
