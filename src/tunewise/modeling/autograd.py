"""What torch leaves untyped about autograd functions, typed in one place."""

from typing import Any, TypeAlias

from torch import Tensor
from torch.autograd import Function

Context: TypeAlias = Any  # What `forward` leaves for `backward`; torch gives it no type.


def call(function: type[Function], *arguments: object) -> tuple[Tensor, ...]:
    """Apply an autograd function; its outputs as a tuple, also when there is one."""
    result: Tensor | tuple[Tensor, ...] = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result if isinstance(result, tuple) else (result,)
