"""A server that speaks HTTP and has manners of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Foreign(ThreadingHTTPServer):
    """A server with manners of its own: `answers` by path (status, type, body), and the keys that it was shown."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.answers = {"/v1/models": (200, "application/json", b'{"data": [{"id": "tiny"}]}')}
        self.keys: list[str | None] = []


class _Answering(BaseHTTPRequestHandler):
    server: Foreign

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.keys.append(self.headers.get("authorization"))
        status, kind, body = self.server.answers[self.path]
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def foreign() -> Iterator[Foreign]:
    with Foreign() as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()
