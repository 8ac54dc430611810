"""Browsers: from which pages a request is taken. Knows headers; nothing of keys, routes or what is asked.

A page of any site can send forms to this machine with its visitor's rights, which without keys, and in a signed-in
browser, are all rights. Browsers tell where a request comes from, and no page can change what they tell; programs tell
nothing, and are not concerned. The order of the checks is that of Go's `http.CrossOriginProtection`. Pure ASGI, as a
websocket is opened across origins as easily as a form is sent.
"""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tunewise.api.errors import error_response

OWN_SITES = {"same-origin", "none"}
SHOWN_CHARS = 200


class OwnPages:
    """Refuses what a page of another origin sends, unless it is one of `allowed`; a link may be followed."""

    def __init__(self, app: ASGIApp, *, allowed: Collection[str]) -> None:
        self.app = app
        self.allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what programs and this server's own pages send; answer anything else with 403."""
        if scope["type"] in {"http", "websocket"}:
            headers = Headers(scope=scope)
            if is_foreign(headers, self.allowed) and not _is_followed_link(scope, headers):
                origin = headers.get("origin", "another site")[:SHOWN_CHARS]
                message = (
                    f"Origin: this server takes requests from its own pages and from programs, and this one comes from "
                    f"a page of {origin}; where that page is to be trusted, name it in TUNEWISE_ALLOWED_ORIGINS"
                )
                await error_response("foreign_origin", message, param="Origin")(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_foreign(headers: Headers, allowed: Collection[str]) -> bool:
    """Whether a browser says that the request comes from another origin's page.

    `Sec-Fetch-Site` comes first: it is right behind a proxy that changes `Host`, and is sent over TLS and on loopback.
    """
    origin = headers.get("origin", "").lower()
    if origin in allowed:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in OWN_SITES
    return bool(origin) and origin.partition("://")[2] != headers.get("host", "").lower()


def _is_followed_link(scope: Scope, headers: Headers) -> bool:
    """A page of ours that is opened from elsewhere, as a whole; in a frame it could be covered and clicked through."""
    return (
        scope["type"] == "http"
        and scope["method"] in {"GET", "HEAD"}
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
