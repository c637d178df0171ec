"""A relay: a broker that knows members by their certificates, gives each its prefix, and understands no message."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from aifn_local.federation.certificates import Authority
from aifn_local.federation.grants import enforce
from aifn_local.federation.members import Member
from aifn_local.federation.mirror import RelayAccess
from aifn_local.federation.rules import Rule
from aifn_local.kafka import LocalKafka, MutualTls

RELAY_HEAP_MB = 256


class LocalRelay:
    """One relay with its folder: a broker with mutual TLS that denies what no rule allows."""

    def __init__(self, alias: str, folder: Path, authority: Authority, *, home: Path | None = None) -> None:
        """`alias`: its name in topics and certificates. `folder`: of this relay alone."""
        self.alias = alias
        self._authority = authority
        self._own = authority.path(alias)
        security = MutualTls(alias, self._own, authority.certificate)
        self.kafka = LocalKafka(folder, home=home, heap_mb=RELAY_HEAP_MB, security=security)

    def start(self, port: int, controller_port: int, say: Callable[[str], None] = lambda _: None) -> int:
        """Start it, unless it runs; returns its process id at once, `kafka.wait_ready` waits."""
        self._authority.vouch(self.alias, server=True)
        self.kafka.prepare(say)
        return self.kafka.running() or self.kafka.launch(port, controller_port)

    def grant(self, port: int, wanted: set[Rule]) -> None:
        """Have these rules and no others. Not for use in an event loop. Raises StackError."""
        asyncio.run(enforce(self.administrator(port), wanted))

    def administrator(self, port: int) -> RelayAccess:
        """The relay's own certificate is its administrator's."""
        return RelayAccess(self.alias, f"127.0.0.1:{port}", self._authority.certificate, self._own, self._own)

    def access(self, member: Member, port: int) -> RelayAccess:
        """What a member needs to reach this relay: an address and two credentials, made now if they are missing."""
        push, pull = self._authority.vouch(member.pushes_as), self._authority.vouch(member.pulls_as)
        return RelayAccess(self.alias, f"127.0.0.1:{port}", self._authority.certificate, push, pull)
