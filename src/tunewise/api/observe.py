"""What is told of a request: its id, one line of JSON on standard error, and numbers for Prometheus.

Neither bodies nor keys nor query strings are told; a request is named by its route, not by its path.
"""

import json
import re
import secrets
import sys
import time
import traceback
from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewise.api.errors import error_response
from tunewise.jobs.platform import Platform
from tunewise.store import jobs

GIVEN_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Numbers(NamedTuple):
    """The metrics of one application."""

    registry: CollectorRegistry
    requests: Counter
    seconds: Histogram


def make_numbers(platform: Platform) -> Numbers:
    """Counters from zero, and the jobs by status as the database has them when it is asked."""
    registry = CollectorRegistry()
    registry.register(_JobsByStatus(platform))
    labels = ("method", "route")
    return Numbers(
        registry,
        Counter("tunewise_requests", "Requests answered.", (*labels, "status"), registry=registry),
        Histogram("tunewise_request_seconds", "Time until the whole answer was sent.", labels, registry=registry),
    )


class _JobsByStatus(Collector):
    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One sample per status that occurs."""
        with self._platform.database.read() as session:
            counts = jobs.counts(session)
        family = GaugeMetricFamily("tunewise_jobs", "Fine-tuning jobs.", labels=["status"])
        for status, count in counts.items():
            family.add_metric([status], count)
        return [family]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The name, so that registering does not ask the database."""
        return [GaugeMetricFamily("tunewise_jobs", "Fine-tuning jobs.", labels=["status"])]


class Observed:
    """The outermost layer: gives each request an id, and tells how it ended, whatever happened inside."""

    def __init__(self, app: ASGIApp, *, numbers: Numbers) -> None:
        self.app = app
        self.numbers = numbers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; an error that nobody expected becomes a 500, and a traceback in the log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        request_id = _request_id(scope)

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except Exception:  # noqa: BLE001 - the edge of the process
            log(level="error", request_id=request_id, traceback=traceback.format_exc())
            if not status:
                message = f"The server failed at this request; its log tells why, under {request_id}"
                await error_response("server_error", message)(scope, receive, send_named)
        self._tell(scope, request_id, status, time.perf_counter() - started)

    def _tell(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = _route(scope)
        self.numbers.requests.labels(scope["method"], route, status).inc()
        self.numbers.seconds.labels(scope["method"], route).observe(seconds)
        log(
            level="info",
            request_id=request_id,
            method=scope["method"],
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 1),
        )


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if GIVEN_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"


def _route(scope: Scope) -> str:
    """The route's template: a path would hold ids, and a metric for each of them."""
    found = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    return str(getattr(found, "path", "unknown"))


def log(**fields: object) -> None:
    """One line of JSON on standard error."""
    sys.stderr.write(json.dumps({"time": round(time.time(), 3), **fields}) + "\n")
