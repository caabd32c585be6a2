"""Waits for a condition; every wait in the lab uses this."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")  # Python 3.11 does not have `def eventually[T]`


def eventually(predicate: Callable[[], T], *, seconds: float, every: float = 1) -> T:
    """Call `predicate` until it raises no AssertionError, and return its result.

    After `seconds` the last AssertionError is raised.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return predicate()
        except AssertionError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {error}") from error
            time.sleep(every)
