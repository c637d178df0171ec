"""How much memory a set of processes takes together, at its peak: shared pages are counted once (PSS)."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def together_mb(pids: Iterable[int]) -> int:
    """Proportional set size of these processes and their children, in MiB."""
    everyone: set[int] = set()
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            everyone |= {pid, *(child.pid for child in process.children(recursive=True))}
    kib = 0
    for pid in everyone:
        with suppress(OSError, ValueError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kib += int(line.split()[1])
    return kib // 1024


class Peak:
    """Looks now and then, and remembers the most."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self.mb = 0

    async def watch(self, every_seconds: float = 3.0) -> None:
        """Look for ever."""
        while True:
            self.mb = max(self.mb, await asyncio.to_thread(lambda: together_mb(self._pids())))
            await asyncio.sleep(every_seconds)
