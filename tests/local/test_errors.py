"""What is missing on a machine is said in one line that tells what to do."""

import errno
from pathlib import Path

import pytest
from aifn_local.errors import PortTaken, StackError, explain, explain_download, explain_os_error


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("java: error while loading shared libraries: libz.so.1: cannot open", "apt-get install zlib1g"),
        ("initdb: error while loading shared libraries: libodd.so.7: cannot open", "system library libodd.so.7"),
        ("java.io.IOException: No space left on device", "disk full: free some space"),
        ('FATAL:  could not write to file "pg_wal/x": No space left on device', "disk full: free some space"),
        ("java.net.BindException: Address already in use", "run the command again"),
        ("Error: java.lang.UnsupportedClassVersionError: kafka/Kafka", "Java 17 or newer"),
        ("Could not reserve enough space for 393216KB object heap", "too little memory"),
        ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", "too little memory"),
        ("initdb: error: could not look up effective user ID 4242: user does not exist", "/etc/passwd"),
        ("initdb: error: could not create directory: Permission denied", "set AIFN_HOME"),
        (
            "INFO fine\nERROR the id in meta.properties is wrong\n\tat kafka.Kafka.main\n",
            "the id in meta.properties is wrong",
        ),
        ("", "it printed nothing"),
    ],
)
def test_a_program_that_fails_is_explained_in_one_line(output: str, advice: str) -> None:
    message = str(explain("Kafka", output, log=Path("/somewhere/kafka.log")))
    assert advice in message
    assert message.startswith("Kafka")
    assert "\n" not in message


def test_a_taken_port_is_an_error_of_its_own_because_another_attempt_helps() -> None:
    assert isinstance(explain("PostgreSQL", "could not bind: Address already in use"), PortTaken)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "set AIFN_HOME to a folder of your own"),
        (errno.EROFS, "set AIFN_HOME to a folder of your own"),
        (errno.EADDRINUSE, "a port is taken"),
        (errno.EIO, "failed while writing"),
    ],
)
def test_an_error_of_the_system_is_explained_in_one_line(number: int, advice: str) -> None:
    message = str(explain_os_error(OSError(number, "why"), doing="writing", path=Path("/x")))
    assert advice in message
    assert "\n" not in message


def test_a_download_that_fails_blames_the_network_unless_the_disk_is_full() -> None:
    lost = explain_download(ConnectionError("nobody there\nat all"), what="g:a:1", source="example.org")
    assert "check the network" in str(lost)
    assert "example.org" in str(lost)
    assert "\n" not in str(lost)
    full = explain_download(OSError(errno.ENOSPC, "full"), what="g:a:1", source="example.org")
    assert "the disk is full" in str(full)


def test_every_explanation_is_a_stack_error() -> None:
    assert isinstance(explain("Kafka", "x"), StackError)
    assert isinstance(explain_os_error(OSError(5, "x"), doing="x"), StackError)
    assert isinstance(explain_download(ValueError("x"), what="x", source="x"), StackError)
