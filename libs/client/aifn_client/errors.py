"""What can go wrong between a person and the services; each says what to do, and knows its exit status."""

from collections.abc import Mapping
from typing import Any, ClassVar

REFUSED, MISUSED, UNREACHABLE = 1, 2, 3


class ClientError(Exception):
    """Anything a person is told in a line or two instead of a traceback."""

    exit_status: ClassVar[int] = REFUSED

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class Misuse(ClientError):
    """What was asked cannot be meant."""

    exit_status = MISUSED


class Unreachable(ClientError):
    """A service does not answer, or answers that it cannot; asking again may help."""

    exit_status = UNREACHABLE


class UnknownPlace(Unreachable):
    """Nobody has said where a service is."""


class SignInNeeded(ClientError):
    """There is no token, or none that still counts."""


class Unreadable(ClientError):
    """An answer is not what this client was made for."""


class Problem(ClientError):
    """A service refused (RFC 9457). `members` are the further members of its problem document."""

    def __init__(
        self, status: int, code: str, detail: str, *, members: Mapping[str, Any] | None = None, advice: str = ""
    ) -> None:
        super().__init__(detail, advice=advice)
        self.status = status
        self.code = code
        self.detail = detail
        self.members = dict(members or {})
