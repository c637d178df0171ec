"""Waits for something to become true, with a bound that only says: this does not hang."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def until(true: Callable[[], bool | Awaitable[bool]], *, seconds: float = 20, what: str = "") -> None:
    """Return as soon as `true()` is; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = true()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or inspect.getsource(true).strip()}"
        await asyncio.sleep(0.05)
