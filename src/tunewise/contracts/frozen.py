"""The one pydantic base: frozen, and refusing unknown fields by name; and the one kind of path that a config holds."""

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo


class Frozen(BaseModel):
    """An immutable value; an unknown field is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _under_root(path: Path, info: ValidationInfo) -> Path:
    root = (info.context or {}).get("root")
    return path if root is None else Path(root) / path.expanduser()


ConfigPath: TypeAlias = Annotated[Path, AfterValidator(_under_root)]
"""A path in a config file: relative to `context["root"]`, the directory of that file, when it is validated with one."""
