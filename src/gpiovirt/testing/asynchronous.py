# SPDX-License-Identifier: MIT
"""Methods that wait, to be awaited: each call runs in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

__all__ = ["Asynchronous"]


class Asynchronous:
    """The methods of `target` as coroutines."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._target, name)

        @wraps(method)
        async def call(*arguments: Any, **keywords: Any) -> Any:
            __tracebackhide__ = True
            return await asyncio.to_thread(method, *arguments, **keywords)

        return call
