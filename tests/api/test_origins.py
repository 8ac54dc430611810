"""Which pages a request is taken from: browsers' headers as they send them, on a live server."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from api.live import Live, serving
from tunewise.jobs import access

FOREIGN = "https://attacker.example"
PROXIED = "https://tunewise.example"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(
        tmp_path_factory.mktemp("origins"), allowed_hosts=("proxied.example",), allowed_origins=(PROXIED,)
    ) as running:
        yield running


def upload(live: Live, headers: dict[str, str]) -> httpx.Response:
    """What a form of a page can send without asking first."""
    form = {"file": ("a", b"x"), "purpose": (None, b"user_data")}
    return live.http.post("/v1/files", files=form, headers=headers)


TAKEN: dict[str, dict[str, str]] = {
    "a program": {},
    "a program through a forwarded port": {"Host": "localhost:9000"},
    "a program in a container": {"Host": "host.docker.internal:8321"},
    "a program that names the machine": {"Host": "LOCALHOST:8321"},
    "our page": {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8321", "Host": "localhost:8321"},
    "our page in an old browser": {"Origin": "http://localhost:9000", "Host": "localhost:9000"},
    "our page behind TLS": {"Origin": "https://proxied.example", "Host": "proxied.example"},
    "our page behind a proxy that changes the host": {"Sec-Fetch-Site": "same-origin", "Origin": "https://x.example"},
    "the same without Sec-Fetch-Site, allowed by its origin": {"Origin": PROXIED},
    "an allowed origin that is another site": {"Sec-Fetch-Site": "cross-site", "Origin": PROXIED},
    "our page that tells no origin": {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
    "an address that was typed": {"Sec-Fetch-Site": "none"},
}
REFUSED: dict[str, dict[str, str]] = {
    "another site": {"Sec-Fetch-Site": "cross-site", "Origin": FOREIGN},
    "another site in an old browser": {"Origin": FOREIGN},
    "another port of this machine": {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
    "another port in an old browser": {"Origin": "http://localhost:3000", "Host": "localhost:8321"},
    "a page that hides its origin": {"Origin": "null"},
    "a page without an origin header": {"Sec-Fetch-Site": "cross-site"},
    "an origin that begins as an allowed one": {"Origin": f"{PROXIED}.attacker.example"},
    "a link that posts": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
}


@pytest.mark.parametrize("case", TAKEN)
def test_programs_and_our_own_pages_are_answered(live: Live, case: str) -> None:
    assert upload(live, TAKEN[case]).status_code == 200


@pytest.mark.parametrize("case", REFUSED)
def test_other_pages_are_refused_and_nothing_is_kept(live: Live, case: str) -> None:
    before = live.http.get("/v1/files").json()["data"]
    answer = upload(live, REFUSED[case])
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    assert answer.headers["x-should-retry"] == "false"
    assert live.http.get("/v1/files").json()["data"] == before


def test_a_key_lets_no_foreign_page_in(tmp_path: Path) -> None:
    with serving(tmp_path) as live:
        secret = access.create_key(live.platform, role="admin", organization=None, project=None).secret
        assert upload(live, {"api-key": secret}).status_code == 200
        assert upload(live, {"api-key": secret, "Origin": FOREIGN}).status_code == 403


def test_a_link_is_followed_and_neither_framed_nor_read(live: Live) -> None:
    def status(mode: str, dest: str) -> int:
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        return live.http.get("/v1/files", headers=headers).status_code

    assert status("navigate", "document") == 200
    assert [status("navigate", "iframe"), status("no-cors", "script"), status("cors", "empty")] == [403, 403, 403]


def test_a_name_that_leads_here_is_answered_only_where_it_is_allowed(live: Live) -> None:
    def answer(host: str) -> httpx.Response:
        return live.http.get("/v1/files", headers={"Host": host})

    names = ("studio.localhost", "proxied.example:443", "Proxied.Example", "127.0.0.1")
    assert [answer(name).status_code for name in names] == [200] * 4
    for name in ("attacker.example", "localhost.attacker.example", "10.0.0.1", ""):
        assert (answer(name).status_code, answer(name).json()["error"]["code"]) == (403, "wrong_host")


def handshake(live: Live, origin: str) -> str:
    """The status line of a websocket's opening from a page of `origin`."""
    host, port = live.url.removeprefix("http://").split(":")
    head = (
        f"GET /socket HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {origin}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode())
        return connection.recv(65536).split(b"\r\n")[0].decode()


def test_websockets_are_opened_by_our_own_pages_only(live: Live) -> None:
    pytest.importorskip("websockets", reason="uvicorn speaks websockets through this package")

    async def accept(websocket: WebSocket) -> None:
        await websocket.accept()

    live.app.router.routes.append(WebSocketRoute("/socket", accept))
    assert handshake(live, live.url).startswith("HTTP/1.1 101")
    assert handshake(live, FOREIGN).startswith("HTTP/1.1 403")
