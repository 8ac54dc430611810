"""What Azure's files have and OpenAI's do not; the rest are OpenAI's routes under Azure's paths."""

from fastapi import APIRouter

from tunewise.api.dependencies import CallerDep
from tunewise.api.route import Route
from tunewise.errors import RequestError

router = APIRouter(prefix="/files", tags=["azure files"], route_class=Route)


@router.post("/import", summary="Refused: import a file from an address")
def import_file(caller: CallerDep) -> None:
    """The server fetches no address that a caller names."""
    raise RequestError(
        "unsupported_operation",
        "files/import: this server fetches nothing from other addresses; upload the file with POST /openai/files",
        param="content_url",
    )
