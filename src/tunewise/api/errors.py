"""Errors on the wire: OpenAI's envelope, and the one table from an error's code to its HTTP status.

The SDK repeats requests that end in 408, 409, 429 or 5xx, so no final error has such a status.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from tunewise.errors import TunewiseError

INVALID = "invalid_request_error"
SHOWN_CHARS = 80


class Kind(NamedTuple):
    """How an error is sent."""

    status: int
    type: str = INVALID
    retry_after: int | None = None
    """Seconds after which it may be well again by itself."""


KINDS: dict[str, Kind] = {
    "missing_api_key": Kind(401),
    "invalid_api_key": Kind(401),
    "wrong_organization": Kind(403, "permission_error"),
    "wrong_project": Kind(403, "permission_error"),
    "admin_required": Kind(403, "permission_error"),
    "wrong_host": Kind(403, "permission_error"),
    "foreign_origin": Kind(403, "permission_error"),
    "not_owner": Kind(403, "permission_error"),
    "unknown_url": Kind(404),
    "fine_tune_not_found": Kind(404),
    "evaluation_not_found": Kind(404),
    "report_not_found": Kind(404),
    "file_not_found": Kind(404),
    "upload_not_found": Kind(404),
    "model_not_found": Kind(404),
    "model_unavailable": Kind(404),
    "permission_not_found": Kind(404),
    "deployment_not_found": Kind(404),
    "DeploymentNotFound": Kind(404),
    "method_not_allowed": Kind(405),
    "request_timeout": Kind(408),
    "body_too_large": Kind(413),
    "unsupported_encoding": Kind(415),
    "server_error": Kind(500, "server_error"),
    "model_server_stopped": Kind(503, "server_error"),
    "serve_failed": Kind(503, "server_error"),
    "serve_timeout": Kind(503, "server_error"),
    "database_unavailable": Kind(503, "server_error", retry_after=2),
    "disk_full": Kind(507, "server_error"),
}
"""By code; what is not named here is the request's fault: 400."""

UNREAD = {"request_timeout", "body_too_large", "unsupported_encoding"}
"""Errors that come before the body has been read: its rest is not waited for."""

CODES = {
    400: "invalid_json",
    401: "invalid_api_key",
    404: "unknown_url",
    405: "method_not_allowed",
    413: "body_too_large",
}


class ErrorBody(BaseModel):
    """What is wrong, with which value, where, and what to do."""

    message: str = Field(examples=["Could not find fine tune: ftjob-1"])
    type: str = Field(examples=[INVALID])
    param: str | None = Field(description="The field at fault, by its path in the request.", examples=["fine_tune_id"])
    code: str | None = Field(description="Stable and machine-readable.", examples=["fine_tune_not_found"])


class ErrorEnvelope(BaseModel):
    """Every answer with a status of 400 or more."""

    error: ErrorBody


def error_response(
    code: str, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer to a request that failed."""
    kind = KINDS.get(code, Kind(400))
    extra = dict(headers or {})
    if kind.retry_after is not None:
        extra["retry-after"] = str(kind.retry_after)
    if code in UNREAD:
        extra["connection"] = "close"
    if kind.status < 500 and kind.status != 429:
        extra["x-should-retry"] = "false"
    body = {"error": {"message": message, "type": kind.type, "param": param, "code": code}}
    return JSONResponse(body, kind.status, extra)


def add_error_answers(app: FastAPI) -> None:
    """Answer every failure in the envelope."""
    app.add_exception_handler(TunewiseError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def _known(_: Request, error: Exception) -> Response:
    if not isinstance(error, TunewiseError):
        raise error
    return error_response(error.code, error.message, param=error.param)


def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = CODES.get(error.status_code, "invalid_request")
    message = str(error.detail)
    if error.status_code in {404, 405}:
        message = f"{error.detail}: Invalid URL ({request.method} {request.url.path})"
    return error_response(code, message, headers=error.headers)


def _invalid(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    code, message, param = explain(error.errors(), error.body)
    return error_response(code, message, param=param)


def explain(errors: Sequence[Mapping[str, Any]], body: object) -> tuple[str, str, str | None]:
    """Code, message and field of the first thing that is wrong with a request."""
    first = errors[0]
    param = _path(first, body)
    if first["type"] == "json_invalid":
        return (
            "invalid_json",
            f"The request body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}",
            None,
        )
    if first["type"] == "extra_forbidden":
        return "unknown_parameter", f"Unrecognized request argument supplied: {param}; leave it out", param
    if param is None:
        return "invalid_json", "The request body must be a JSON object, sent with Content-Type: application/json", None
    if first["type"] == "missing":
        return "missing_required_parameter", f"Missing required parameter: {param!r}", param
    reasons = dict.fromkeys(
        str(error["msg"]).removeprefix("Value error, ") for error in errors if _path(error, body) == param
    )
    got = json.dumps(first.get("input"), default=str)[:SHOWN_CHARS]
    return "invalid_value", f"{param}: {'; or '.join(reasons)} (got {got})", param


def _path(error: Mapping[str, Any], body: object) -> str | None:
    """The field's path as the client wrote it: what pydantic adds to tell a union's members apart is left out."""
    source, *location = error["loc"]
    if source != "body":
        return ".".join(map(str, location)) or None
    names: list[str] = []
    value: Any = body
    for index, part in enumerate(location):
        is_item = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if is_item or (isinstance(value, Mapping) and part in value):
            value = value[part]
        elif not (error["type"] == "missing" and index == len(location) - 1):
            continue
        names.append(str(part))
    return ".".join(names) or None
