"""Query parameters: those that a route declares, and no others. The one place that decides it, for every route.

What a route declares is also what the OpenAPI document says that it takes. Objects are declared
in a route's `openapi_extra`, and written with brackets, as the SDK writes `metadata[KEY]=VALUE`.
"""

from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant

from tunewise.errors import RequestError

SHOWN_CHARS = 80


async def only_declared(request: Request) -> None:
    """Refuse a query parameter that would be ignored.

    Raises:
        RequestError: unknown_parameter.
    """
    if not request.query_params:
        return
    route: Any = request.scope.get("fastapi", {}).get("effective_route_context") or request.scope["route"]
    objects = {parameter["name"] for parameter in (route.openapi_extra or {}).get("parameters", [])}
    taken = _names(route.dependant) | objects
    for name in request.query_params:
        if name not in taken and name.partition("[")[0] not in objects:
            known = f"takes {', '.join(sorted(taken))}" if taken else "takes no query parameters"
            raise RequestError(
                "unknown_parameter",
                f"Unrecognized query parameter: {name[:SHOWN_CHARS]}; this URL {known}",
                param=name[:SHOWN_CHARS],
            )


def _names(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*(_names(dependency) for dependency in dependant.dependencies))
