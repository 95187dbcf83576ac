"""A list of modules that a type checker knows the type of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class TypedModuleList(nn.ModuleList, Generic[M]):
    """``nn.ModuleList`` of modules of one type, M."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[M]: ...
