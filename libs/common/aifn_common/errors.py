"""What may go wrong by the asker's doing. Everything that is not a Refusal is our own fault."""

from typing import Any


class Refusal(Exception):
    """A request or an event that will not be carried out; asking again with the same words cannot help.

    A subclass names the reason in `code` and may set `status`, the HTTP status it is answered with. Public
    attributes of an instance (numbers and short texts) are part of the answer, so that a program can act on them.
    """

    code: str = "refused"
    status: int = 409

    @property
    def details(self) -> dict[str, Any]:
        """The values that belong to this refusal, for the problem document and the dead letter."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class NotFound(Refusal):
    """The named thing is not known here."""

    code = "not_found"
    status = 404


class Forbidden(Refusal):
    """The asker's roles do not reach this."""

    code = "forbidden"
    status = 403


class Unauthenticated(Refusal):
    """Nobody can be recognised behind the request."""

    code = "unauthenticated"
    status = 401


class Invalid(Refusal):
    """The words make no sense, whoever says them."""

    code = "invalid"
    status = 422


class Stale(Refusal):
    """Older than what is already known."""

    code = "stale_event"


class PreconditionFailed(Refusal):
    """The thing has changed since the asker last read it."""

    code = "precondition_failed"
    status = 412


class PreconditionRequired(Refusal):
    """A change must say which revision it was made from."""

    code = "precondition_required"
    status = 428
