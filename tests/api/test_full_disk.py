"""A disk that fills up while a file comes in: a clear answer, nothing left behind, and a server that goes on."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from api.live import Live, serving

MEGABYTE = 1024 * 1024
DISK_MEGABYTES = 24


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """A server whose state lies on a disk of its own, of 24 MB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tunewise", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        with serving(tmp_path) as running:
            yield running
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def upload(live: Live, data: bytes) -> httpx.Response:
    return live.http.post("/v1/files", files={"file": ("a", data), "purpose": (None, b"user_data")})


def part(live: Live, upload_id: str, data: bytes) -> httpx.Response:
    return live.http.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("a", data)})


def is_full(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")


def test_a_file_that_does_not_fit_is_a_507_and_leaves_room_for_the_next(live: Live) -> None:
    kept = upload(live, b"x" * MEGABYTE).json()
    assert is_full(upload(live, b"x" * (DISK_MEGABYTES + 8) * MEGABYTE))
    assert list(live.platform.incoming_dir.iterdir()) == []
    assert upload(live, b"y" * MEGABYTE).status_code == 200
    assert live.http.get(f"/v1/files/{kept['id']}/content").content == b"x" * MEGABYTE


def test_an_upload_in_parts_that_does_not_fit_can_be_cancelled(live: Live) -> None:
    asked = {"filename": "a", "purpose": "user_data", "bytes": 20 * MEGABYTE, "mime_type": "text/plain"}
    announced = live.http.post("/v1/uploads", json=asked).json()["id"]
    first = part(live, announced, b"x" * 15 * MEGABYTE).json()["id"]
    assert is_full(part(live, announced, b"x" * 15 * MEGABYTE))
    second = part(live, announced, b"x" * 5 * MEGABYTE).json()["id"]
    completed = live.http.post(f"/v1/uploads/{announced}/complete", json={"part_ids": [first, second]})
    assert is_full(completed)  # the parts and the whole do not fit at once
    assert list(live.platform.incoming_dir.iterdir()) == []
    assert live.http.post(f"/v1/uploads/{announced}/cancel").json()["status"] == "cancelled"
    assert upload(live, b"x" * 15 * MEGABYTE).status_code == 200


def test_a_disk_that_others_have_filled_refuses_writes_and_answers_reads(live: Live) -> None:
    kept = upload(live, b"x").json()["id"]
    ballast = live.platform.settings.state_dir / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    for size in (100, MEGABYTE):
        assert is_full(upload(live, b"x" * size))
    assert live.http.get(f"/v1/files/{kept}").status_code == 200
    assert live.http.get("/readyz").status_code == 200
    ballast.unlink()
    assert upload(live, b"x" * MEGABYTE).status_code == 200
    assert len(live.http.get("/v1/files").json()["data"]) == 2
