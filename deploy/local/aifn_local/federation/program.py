"""A Python program of a federation: started in the background, and found again by the folder on its command line.

Run as a module it is that program: `python -m aifn_local.federation.program FOLDER MODULE ARGUMENTS...`.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aifn_local import processes
from aifn_local.home import make_folder
from aifn_local.kafka import GENTLE_STEPS, KILL_STEPS

_ITSELF = "aifn_local.federation.program"


@dataclass(frozen=True)
class LocalProgram:
    """One program with its folder, which is its mark and holds its log. `env` is its whole configuration."""

    folder: Path
    module: str
    arguments: Sequence[str]
    env: Mapping[str, str]
    port: int

    @property
    def mark(self) -> processes.Mark:
        """The part of its command line that is its own."""
        return (_ITSELF, str(self.folder))

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it has printed."""
        return self.folder / "program.log"

    def launch(self) -> int:
        """Start it, unless it runs; returns its process id at once."""
        if found := self.running():
            return found
        make_folder(self.folder, mode=0o700)
        command = [sys.executable, "-m", *self.mark, self.module, *self.arguments]
        return processes.launch(command, output=self.log, folder=self.folder, extra=self.env)

    def running(self) -> int | None:
        """Its process id, None when it is not running."""
        found = processes.carrying(self.mark)
        return found[0].pid if found else None

    def stop(self, *, kill: bool = False) -> None:
        """End it and wait until it is gone."""
        processes.end(self.mark, KILL_STEPS if kill else GENTLE_STEPS)


def main() -> None:
    """Become the program that the arguments name."""
    _, _folder, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(module).main())


if __name__ == "__main__":
    main()
