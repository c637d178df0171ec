"""What can be missing on a machine, each as one line that says what to do."""

import errno
import re
from pathlib import Path

_LIBRARY = re.compile(r"error while loading shared libraries: (?P<name>[^:\s]+)")
_PACKAGES = {
    "libz.so.1": "zlib1g",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
    "libreadline.so.8": "libreadline8",
}
_NOISE = re.compile(r"^\s*(at |\.\.\. \d+ more|$)")


class StackError(RuntimeError):
    """The local stack cannot do what was asked; the message is one line that says what to do."""


class PortTaken(StackError):
    """Another program was quicker to listen on the port; the next attempt takes another one."""


def explain(program: str, output: str, *, log: Path | None = None) -> StackError:
    """Turn what a failed program printed into one line of advice.

    Args:
        program: its name for people, e.g. "Kafka".
        output: what it wrote, newest last; the end of a log is enough.
        log: where the whole of it can be read.

    >>> str(explain("Kafka", "java: error while loading shared libraries: libz.so.1: cannot open shared object file"))
    'Kafka needs the system library libz.so.1: install it (Debian: apt-get install zlib1g)'
    """
    where = f" (log: {log})" if log else ""
    if found := _LIBRARY.search(output):
        name = found["name"]
        package = _PACKAGES.get(name)
        hint = f" (Debian: apt-get install {package})" if package else ""
        return StackError(f"{program} needs the system library {name}: install it{hint}")
    if "No space left on device" in output:
        return StackError(f"{program} found the disk full: free some space, or set AIFN_HOME to a larger disk")
    if "Address already in use" in output:
        return PortTaken(f"{program}'s port was taken by another program: run the command again for another one{where}")
    if "UnsupportedClassVersionError" in output:
        return StackError(f"{program} needs Java 17 or newer: unset JAVA_HOME to use the runtime that came with aifn")
    if "Could not reserve enough space" in output or "Cannot allocate memory" in output or "OutOfMemoryError" in output:
        return StackError(f"{program} found too little memory: close other programs, or change the heap size{where}")
    if "could not look up effective user ID" in output:
        return StackError(f"{program} needs a user the system knows: run as one with an entry in /etc/passwd")
    if "Read-only file system" in output or "Permission denied" in output:
        return StackError(f"{program} may not write its folder: set AIFN_HOME to a folder of your own{where}")
    return StackError(f"{program} did not start: {_last_words(output)}{where}")


def explain_os_error(error: OSError, *, doing: str, path: Path | None = None) -> StackError:
    """Turn an error of the operating system into one line of advice; `doing` completes "while ..."."""
    where = str(path or error.filename or "the folder")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StackError(
            f"the disk is full while {doing}: free some space, or set AIFN_HOME to a larger disk ({where})"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StackError(f"no permission while {doing}: set AIFN_HOME to a folder of your own ({where})")
    if error.errno == errno.EADDRINUSE:
        return StackError(f"a port is taken while {doing}: run the command again, or stop what listens there")
    return StackError(f"failed while {doing}: {error}")


def explain_download(error: Exception, *, what: str, source: str) -> StackError:
    """Turn a failed download into one line of advice. The disk may be the culprit as well as the network."""
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
    ):
        return explain_os_error(error, doing=f"fetching {what}")
    return StackError(
        f"{what} could not be fetched from {source} ({type(error).__name__}): check the network or the proxy settings "
        "and run again; what has arrived is kept"
    )


def _last_words(output: str) -> str:
    """The last line that says something: not a stack frame, not empty."""
    lines = [line.strip() for line in output.splitlines() if not _NOISE.match(line)]
    telling = [line for line in lines if re.search(r"ERROR|FATAL|Exception|error|fatal|could not", line)]
    return (telling or lines or ["it printed nothing"])[-1][:300]
