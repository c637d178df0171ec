"""The way between members: relays with their rules, a mirror at each member, and what may break between them."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aifn_local import processes
from aifn_local.errors import StackError
from aifn_local.federation.certificates import Authority
from aifn_local.federation.members import Member, check_names
from aifn_local.federation.mirror import LocalMirror, MirrorEnded, RelayAccess, settings
from aifn_local.federation.relay import LocalRelay
from aifn_local.federation.rules import rules

Say = Callable[[str], None]
_ATTEMPTS = 3


class Transport:
    """Relays and mirrors of one federation. The members' own brokers are given; they are not started here."""

    def __init__(
        self,
        folder: Path,
        brokers: Mapping[Member, str],
        relays: Sequence[str],
        ports: dict[str, int],
        *,
        home: Path | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            folder: of this federation alone.
            brokers: host:port of each member's own broker.
            relays: their aliases.
            ports: by name of the server; kept and filled, so that the next start has the same.
        Raises: StackError, if a member is called like a relay.
        """
        check_names(tuple(brokers), relays)
        self.authority = Authority(folder / "certificates")
        self.brokers = dict(brokers)
        self.relays = {
            alias: LocalRelay(alias, folder / "relays" / alias, self.authority, home=home) for alias in relays
        }
        self.mirrors = {member.id: LocalMirror(folder / "mirrors" / member.id, home=home) for member in brokers}
        self._ports = ports

    @property
    def members(self) -> tuple[Member, ...]:
        """All of them, in the order of the list."""
        return tuple(self.brokers)

    def bootstrap(self, alias: str) -> str:
        """Where a relay answers, host:port."""
        return f"127.0.0.1:{self._port(alias)}"

    def access(self, member: Member, alias: str) -> RelayAccess:
        """With what a member reaches a relay."""
        return self.relays[alias].access(member, self._port(alias))

    def start(self, say: Say = lambda _: None) -> None:
        """Have relays, rules and mirrors, whatever of it is missing. Raises StackError."""
        self.start_relays(say)
        self.start_mirrors(say)

    def start_relays(self, say: Say = lambda _: None) -> None:
        """Have every relay running, with the rules of the member list."""
        for relay in self.relays.values():
            relay.start(self._port(relay.alias), self._port(f"{relay.alias}-controller"), say)
        say(f"{len(self.relays)} relays: each member may write its own prefix, and nothing else")
        with ThreadPoolExecutor(len(self.relays)) as pool:
            list(pool.map(self._open_relay, self.relays.values()))

    def start_mirrors(self, say: Say = lambda _: None) -> None:
        """Have a mirror running at every member, and wait until each copies."""
        say(f"{len(self.mirrors)} mirrors: MirrorMaker 2 at each member")
        waiting = [(member, pid) for member in self.members if (pid := self._launch_mirror(member)) is not None]
        for member, pid in waiting:
            self._wait_for_mirror(member, pid)

    def stop(self, *, kill: bool = False) -> None:
        """Stop mirrors and relays; what relays hold stays."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda mirror: mirror.stop(kill=kill), self.mirrors.values()))
            list(pool.map(lambda relay: relay.kafka.stop(kill=kill), self.relays.values()))

    def stop_relay(self, alias: str, *, kill: bool = True) -> None:
        """A relay goes away, as in a power cut; it keeps what it holds."""
        self.relays[alias].kafka.stop(kill=kill)

    def return_relay(self, alias: str) -> None:
        """A relay comes back; mirrors that started without it are started again."""
        relay = self.relays[alias]
        relay.start(self._port(alias), self._port(f"{alias}-controller"))
        self._open_relay(relay)
        for member in self.members:
            mirror = self.mirrors[member.id]
            if mirror.running() and alias not in mirror.relays():
                mirror.stop(kill=True)
        self.start_mirrors()

    def cut_off(self, member: Member) -> None:
        """Nothing of this member leaves by the relays any more, and nothing reaches it."""
        self.mirrors[member.id].stop(kill=True)

    def reconnect(self, member: Member) -> None:
        """The member's mirror runs again, and goes on where it had stopped."""
        pid = self._launch_mirror(member)
        if pid is not None:
            self._wait_for_mirror(member, pid)

    def pids(self) -> list[int]:
        """Processes of relays and mirrors that live."""
        every = [*(mirror.running() for mirror in self.mirrors.values())]
        every += [relay.kafka.running() for relay in self.relays.values()]
        return [pid for pid in every if pid is not None]

    def marks(self) -> list[processes.Mark]:
        """By what each process of it is known."""
        found = [mirror.mark for mirror in self.mirrors.values()]
        return found + [relay.kafka.mark for relay in self.relays.values()]

    def _open_relay(self, relay: LocalRelay) -> None:
        pid, port = relay.kafka.running(), self._port(relay.alias)
        if pid is None:
            raise StackError(f"{relay.alias} ended while it started: see {relay.kafka.log}")
        relay.kafka.wait_ready(pid, port)
        relay.grant(port, rules(self.members))

    def _launch_mirror(self, member: Member) -> int | None:
        """Start a member's mirror with the relays that answer; None if it runs. Raises StackError if none answers."""
        mirror = self.mirrors[member.id]
        if mirror.running():
            return None
        reachable = {
            alias: self.access(member, alias)
            for alias in self.relays
            if processes.answers("127.0.0.1", self._port(alias))
        }
        if not reachable:
            raise StackError(f"the mirror of {member.id} finds no relay: start one first")
        return mirror.launch(settings(member, self.brokers[member], reachable))

    def _wait_for_mirror(self, member: Member, pid: int) -> None:
        """Return once it copies; one that ends while it starts is started again. Raises StackError."""
        mirror = self.mirrors[member.id]
        for left in reversed(range(_ATTEMPTS)):
            try:
                mirror.wait_ready(pid, flows=2 * len(mirror.relays()))
                return
            except MirrorEnded:
                if not left:
                    raise
                pid = self._launch_mirror(member) or pid

    def _port(self, name: str) -> int:
        """The port of a server, the same each time."""
        while name not in self._ports:
            port = processes.free_port()
            if port not in self._ports.values():
                self._ports[name] = port
        return self._ports[name]
