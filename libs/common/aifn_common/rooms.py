"""What a service is made of, as its app.py lists it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aifn_common.database import Database, Transaction
from aifn_common.kafka import Subscriptions
from aifn_common.settings import ServiceSettings

if TYPE_CHECKING:
    from fastapi import APIRouter

PLUMBING = "aifn_common"


@dataclass(frozen=True)
class Timer:
    """Something done again and again, by one worker at a time, `every_seconds` of real time."""

    name: str
    every_seconds: float
    action: Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Service:
    """A service's rooms, as its app.py lists them.

    A router, or a list of them, may be named as `module:name`: routes take as long to import as all the rest together,
    and only the role that answers needs them. Each of `measures` puts something that is kept in the database into the
    metrics; the leading worker asks them.
    """

    name: str
    package: str
    hears: Subscriptions
    settings: type[ServiceSettings] = ServiceSettings
    routers: "Sequence[APIRouter | str]" = ()
    timers: Sequence[Timer] = ()
    measures: Sequence[Callable[[Database], Awaitable[None]]] = ()
    seed: Callable[[Transaction, Any], Awaitable[None]] | None = field(default=None)

    @property
    def packages(self) -> tuple[str, str]:
        """Whose migrations its database has."""
        return (PLUMBING, self.package)

    @property
    def audience(self) -> str:
        """For whom a token must be meant."""
        return f"aifn-{self.name}"


def source_of(service: Service, settings: ServiceSettings) -> str:
    """Who speaks, as events name it."""
    return f"urn:aifn:{settings.factory}:{service.name}"
