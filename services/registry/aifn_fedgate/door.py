"""What one gate has at hand while it runs: its keys, whom it trusts, and one batch at a time."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aifn_common.database import Database, transaction
from aifn_events.base import Event
from aifn_events.federation import may_tell

from aifn_fedgate.domain import directory as rules
from aifn_fedgate.domain.directory import Distrusted, Trust
from aifn_fedgate.domain.gate import Gate
from aifn_fedgate.settings import FedgateSettings
from aifn_fedgate.signing import OnlineKeys, read_online, verify
from aifn_fedgate.store import peers

log = logging.getLogger(__name__)


def real_time() -> datetime:
    """The present moment: directories, heads and silence live in real time, whatever the services simulate."""
    return datetime.now(UTC)


@dataclass
class Door:
    """A member's gate at work. `lock` keeps incoming batches apart, whichever way they come."""

    settings: FedgateSettings
    keys: OnlineKeys
    trust: Trust | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    now: Callable[[], datetime] = real_time
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        # A process that must first look whether a backup was restored clears it.
        self.ready.set()

    @classmethod
    def open(cls, settings: FedgateSettings) -> "Door":
        """Read the keys. Raises WrongKeyFile."""
        return cls(settings, read_online(Path(settings.fed_key)))

    @property
    def me(self) -> str:
        """This member."""
        return self.settings.factory

    @property
    def directory_version(self) -> int:
        """The version in force; 0 is none."""
        return self.trust.directory.version if self.trust else 0

    def gate(self) -> Gate | None:
        """Who looks at what comes in; None while nobody is trusted."""
        if self.trust is None:
            return None
        return Gate(self.me, self.trust, verify, self.keys.open_sealed)

    def may_tell(self, stream: str, event: Event) -> bool:
        """Whether the others will believe this fact of ours. Until the directory has us, what is ours is told."""
        mine = self.trust.directory.members.get(self.me) if self.trust else None
        if mine is not None and not mine.may_write(stream):
            return False
        return may_tell(event, self.me, mine.kind if mine else None)

    def others(self) -> list[str]:
        """The other members, as far as they have not left."""
        if self.trust is None:
            return []
        return sorted(name for name, one in self.trust.directory.members.items() if name != self.me and not one.left)

    def endpoints(self, member: str) -> tuple[str, ...]:
        """Where a member answers."""
        known = self.trust.directory.members.get(member) if self.trust else None
        return known.endpoints if known else ()

    async def consider(self, db: Database, roots: list[str], text: str) -> bool:
        """Believe a newer directory and the roots that lead to it, and keep them.

        Returns: whether it is in force now and was not before. Raises Distrusted.
        """
        root = self.trust.root if self.trust else None
        for document in roots:
            version = rules.content_of(document).get("version")
            if root is None:
                root = await self._pinned(db)
            if isinstance(version, int) and version > root.version:
                root = rules.next_root(root, document, verify)
        if root is None:
            root = await self._pinned(db)
        found = rules.read_directory(root, text, verify)
        if not rules.newer(self.trust, found):
            return False
        async with transaction(db) as tx:
            for document in roots:
                await peers.keep_document(tx, "root", int(rules.content_of(document)["version"]), document)
            await peers.keep_document(tx, "directory", found.version, text)
        self.trust = Trust.of(root, found)
        log.warning("directory %s is in force, with %s members", found.version, len(found.members))
        return True

    async def _pinned(self, db: Database) -> rules.Root:
        """The root a person put there; every later one follows from it."""
        path = Path(self.settings.fed_directory) / "root.1.json"
        async with transaction(db) as tx:
            kept = await peers.documents(tx, "root")
        try:
            text = kept[0] if kept else path.read_text()
        except OSError as fault:
            raise Distrusted("no_root", f"{path}: {fault.strerror}") from None
        root = rules.first_root(text, verify)
        if not kept:
            async with transaction(db) as tx:
                await peers.keep_document(tx, "root", root.version, text)
        return root

    async def recall(self, db: Database) -> None:
        """Trust again what was trusted before the process ended."""
        async with transaction(db) as tx:
            roots, known = await peers.documents(tx, "root"), await peers.documents(tx, "directory")
        if not roots or not known:
            return
        root = rules.first_root(roots[0], verify)
        for document in roots[1:]:
            root = rules.next_root(root, document, verify)
        self.trust = Trust.of(root, rules.read_directory(root, known[-1], verify))

    async def look_into_folder(self, db: Database) -> bool:
        """Consider what lies in the folder of the directory; whether it brought something newer."""
        found = _read_folder(Path(self.settings.fed_directory))
        if found is None:
            return False
        try:
            return await self.consider(db, *found)
        except Distrusted as wrong:
            log.error("%s: %s (%s)", self.settings.fed_directory, wrong, wrong.code)
            return False

    async def carried(self, db: Database) -> tuple[list[str], str] | None:
        """The chain of roots and the directory in force, as texts to pass on."""
        async with transaction(db) as tx:
            roots, known = await peers.documents(tx, "root"), await peers.documents(tx, "directory")
        return (roots, known[-1]) if known else None

    def expired(self) -> bool:
        """Whether nothing new may be believed."""
        return self.trust is None or self.trust.expired(self.now())


def _read_folder(folder: Path) -> tuple[list[str], str] | None:
    try:
        roots = [path.read_text() for path in sorted(folder.glob("root.*.json"), key=_number)]
        return roots, (folder / "directory.json").read_text()
    except OSError:
        return None


def _number(path: Path) -> int:
    part = path.name.split(".")[1]
    return int(part) if part.isdigit() else 0
