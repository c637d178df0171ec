"""Ends the programs of a stack when the process that wanted them dies, however it dies.

It reads one line of JSON (an Order) and then waits for the end of its input. The word "keep" before that end sends it
home with nothing done. The kernel's parent-death signal would not do: it
fires when the *thread* that started a program ends, and a stack may be started from a worker thread.
"""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypedDict

from aifn_local import processes
from aifn_local.errors import StackError
from aifn_local.processes import Mark, Step

_KEEP = b"keep\n"


class Order(TypedDict):
    """What is to be done when we die: signals by number with their patience in s, then paths to remove."""

    end: list[tuple[list[str], list[tuple[int, float]]]]
    remove: list[str]


class Keeper:
    """Our end of the pipe to a keeper process."""

    def __init__(self, end: Sequence[tuple[Mark, Sequence[Step]]], *, remove: Sequence[Path] = ()) -> None:
        """From now on the programs that carry these marks end with us, and the paths in `remove` go with them."""
        order: Order = {
            "end": [(list(mark), [(int(order), patience) for order, patience in steps]) for mark, steps in end],
            "remove": [str(path) for path in remove],
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aifn_local.keeper"],
            stdin=subprocess.PIPE,
            # It may outlive us for a moment and must not keep the pipe of `aifn demo | tee` open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        self._write(json.dumps(order).encode() + b"\n")

    def dismiss(self) -> None:
        """The programs may live on without us, or are gone: the keeper ends and touches nothing."""
        self._write(_KEEP)
        self.act()

    def act(self) -> None:
        """Have the order carried out now, and wait until it is."""
        with suppress(BrokenPipeError):
            self._pipe.close()
        self._process.wait(timeout=60)

    def _write(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # a keeper that was killed keeps nothing; what it would do is done by `down`
            self._pipe.write(line)
            self._pipe.flush()


def watch(lines: BinaryIO) -> None:
    """Obey the pipe: remember the order, wait for the end, act unless told to keep."""
    line = lines.readline()
    if not line.endswith(b"\n") or lines.readline() == _KEEP:
        return
    order: Order = json.loads(line)
    for mark, steps in order["end"]:
        with suppress(StackError):  # one that does not end must not save the others
            processes.end(tuple(mark), [(signal.Signals(number), patience) for number, patience in steps])
    for path in order["remove"]:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):  # a file, or gone already
            Path(path).unlink()


if __name__ == "__main__":
    # Ctrl-C and a closed terminal are for the one who asked for the stack; the pipe tells us what came of it.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    watch(sys.stdin.buffer)
