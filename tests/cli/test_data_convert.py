"""`tunewise data convert`: what a person is shown and asked, what is written, and the exit code."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tunewise.cli import app
from tunewise.data.check import check
from tunewise.data.tables.hub import fetch
from tunewise.errors import DataError

SAVED = Path(__file__).parents[1] / "data" / "saved" / "numbers"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", "convert", *arguments])


def write_table(path: Path, header: str = "question,answer", rows: int = 12) -> Path:
    path.write_text("\n".join([header, *(f"What is {n} and {n}?,It is {2 * n}." for n in range(rows))]) + "\n")
    return path


def test_a_clear_table_is_converted_and_data_check_takes_it(folder: Path) -> None:
    write_table(folder / "numbers.csv")
    result = run("numbers.csv")
    assert result.exit_code == 0
    assert "prompt is 'question', by its name" in result.stdout
    assert "user: What is 0 and 0?" in result.stdout
    assert "12 of 12 rows written" in result.stdout
    assert check([("train", folder / "numbers.chat.jsonl")]).errors == ()


def test_what_is_open_is_asked_with_the_flags_and_nothing_is_written(folder: Path) -> None:
    write_table(folder / "t.csv", header="text,category")
    result = run("t.csv")
    assert result.exit_code == 3
    assert "--map prompt=text" in result.stderr
    assert "--map completion=category" in result.stderr
    assert not (folder / "t.chat.jsonl").exists()


def test_the_flags_that_were_asked_for_convert_it(folder: Path) -> None:
    write_table(folder / "t.csv", header="text,category")
    flags = ["--map", "prompt=text", "--map", "completion=category", "--system", "Sum up.", "-o", "out.jsonl"]
    assert run("t.csv", *flags).exit_code == 0
    first = json.loads((folder / "out.jsonl").read_text().splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]


def test_rows_at_fault_exit_with_3_and_the_others_are_written(folder: Path) -> None:
    with write_table(folder / "t.csv").open("a") as file:
        file.write("What is left?,\n")
    result = run("t.csv", "--json")
    assert result.exit_code == 3
    conversion = json.loads(result.stdout)
    assert [(found["line"], found["code"]) for found in conversion["findings"]] == [(14, "empty_assistant_content")]
    assert len((folder / "t.chat.jsonl").read_text().splitlines()) == conversion["written"] == 12


def test_a_file_that_is_there_is_not_written_over_unless_asked(folder: Path) -> None:
    write_table(folder / "t.csv")
    (folder / "t.chat.jsonl").write_text("precious")
    assert run("t.csv").exit_code == 2
    assert (folder / "t.chat.jsonl").read_text() == "precious"
    assert run("t.csv", "--overwrite").exit_code == 0


def test_a_preview_writes_nothing(folder: Path) -> None:
    write_table(folder / "t.csv")
    result = run("t.csv", "--preview")
    assert "line 4" in result.stdout
    assert [path.name for path in folder.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("flag", ["prompt", "speaker=question", "prompt=a"])
def test_a_flag_that_names_no_role_is_refused(folder: Path, flag: str) -> None:
    write_table(folder / "t.csv")
    assert run("t.csv", "--map", flag, "--map", "prompt=question").exit_code == 2


def test_a_saved_data_set_is_read_by_its_split(folder: Path) -> None:
    asked = run(str(SAVED))
    assert asked.exit_code == 3
    assert "numbers:train or" in asked.stderr
    assert run(f"{SAVED}:train", "-o", "train.jsonl").exit_code == 0
    assert len((folder / "train.jsonl").read_text().splitlines()) == 12


def test_offline_a_data_set_that_was_never_fetched_is_told() -> None:
    with pytest.raises(DataError, match="cannot be fetched from the hub") as refused:
        fetch("nobody/never-fetched", "train", offline=True)
    assert refused.value.code == "hub_unreachable"


COMMIT = "c0ffee" * 6 + "c0ff"
REMOTE = {
    "README.md": b"# numbers\n",
    "data/train.csv": b"question,answer\n1+1,2\n",
    "data/test.csv": b"question,answer\n",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as its client needs to list and fetch a data set."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        headers = {"X-Repo-Commit": COMMIT, "Content-Type": "application/json"}
        if "/resolve/" in path:
            body = REMOTE[path.split(f"/resolve/{COMMIT}/")[-1]]
            headers["ETag"] = f'"{abs(hash(body)):040x}"'
        elif "/tree/" in path:
            files = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in REMOTE.items()
            ]
            body = json.dumps(files).encode()
        else:
            siblings = [{"rfilename": name} for name in REMOTE]
            body = json.dumps({"id": "some/numbers", "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@contextmanager
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_data_set_of_the_hub_is_fetched_by_name_and_split(folder: Path) -> None:
    with hub() as address:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "tunewise.cli", "data", "convert"]
        asked = subprocess.run(
            [*command, "some/numbers"], env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        assert "some/numbers:train or some/numbers:test" in asked.stderr
        result = subprocess.run(
            [*command, "some/numbers:train", "-o", "out.jsonl"],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "out.jsonl").read_text())["messages"][1]["content"] == "2"
    assert not list((folder / "hf").rglob("test.csv"))
