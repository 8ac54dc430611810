"""How long the texts of a request may be, and that no NUL stands in them, which no database keeps."""

from typing import Annotated, TypeAlias

from pydantic import Field, StringConstraints

ID_CHARS = 512  # the name of a checkpoint holds a base model, an organization and a suffix
PATH_CHARS = 4096  # Linux's longest
NO_NUL = r"^[^\x00]*$"

Id: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=ID_CHARS, pattern=NO_NUL)]
Label: TypeAlias = Annotated[str, StringConstraints(max_length=64, pattern=NO_NUL)]
Line: TypeAlias = Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)]
PathText: TypeAlias = Annotated[str, StringConstraints(max_length=PATH_CHARS, pattern=NO_NUL)]
Metadata: TypeAlias = Annotated[dict[Label, Line], Field(max_length=16)]
