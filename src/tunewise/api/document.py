"""The OpenAPI document: what FastAPI reads off the routes, and what holds for all of them.

FastAPI would be told the latter route by route, and build validators for each: a third of a second at every start.
"""

from typing import Any, TypeAlias

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from tunewise.api.dependencies import HEADERS, KEYS
from tunewise.api.errors import ErrorEnvelope
from tunewise.api.route import Route

Document: TypeAlias = dict[str, Any]
SCHEMAS = "#/components/schemas/"
ERRORS: dict[int | str, str] = {
    400: "The request is wrong; `param` names the field.",
    401: "No key, or not one of this server's.",
    403: "The key does not allow this.",
    404: "There is no such thing in the caller's project.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is compressed.",
    500: "The server failed; its log says why.",
    503: "The database or a model cannot be reached now.",
    507: "The disk is full.",
}
_ENVELOPE = {"application/json": {"schema": {"$ref": f"{SCHEMAS}{ErrorEnvelope.__name__}"}}}
ERROR_ANSWERS: dict[int | str, Document] = {
    status: {"description": what, "content": _ENVELOPE} for status, what in ERRORS.items()
}


def document(app: FastAPI) -> Document:
    """The document, made once. FastAPI's answer 422 is not in it: wrong fields are answered with 400 here."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _complete(made, asking=_operations_with_a_caller(app))
        app.openapi_schema = made
    return app.openapi_schema


def _complete(made: Document, *, asking: set[tuple[str, str]]) -> None:
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            if (method, path) in asking:
                operation["security"] = [{name: []} for name in KEYS]
                operation["parameters"] = [*operation.get("parameters", []), *HEADERS]
    schemas = made["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    envelope = ErrorEnvelope.model_json_schema(mode="serialization", ref_template=f"{SCHEMAS}{{model}}")
    schemas |= envelope.pop("$defs") | {ErrorEnvelope.__name__: envelope}
    made["components"]["securitySchemes"] = KEYS


def _operations_with_a_caller(app: FastAPI) -> set[tuple[str, str]]:
    contexts = list(iter_route_contexts(app.routes))
    asking = [one for one in contexts if isinstance(one.original_route, Route) and one.original_route.asks]
    return {(method.lower(), str(one.path_format)) for one in asking for method in one.methods or ()}
