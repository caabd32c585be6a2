"""Calls a function for several machines at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")  # Python 3.11 does not have `def for_each[T]`


def for_each(names: Sequence[str], call: Callable[[str], T]) -> dict[str, T]:
    """Return what `call` returns for each name, in their order; the first exception is raised."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(call, names), strict=True))
