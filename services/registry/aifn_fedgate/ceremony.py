"""The offline work of a federation: root keys, members' keys, the directory, keys taken back. Files in, files out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aifn_events.federation import STREAMS, MemberKind

from aifn_fedgate.domain import directory as rules
from aifn_fedgate.domain.directory import DAYS, Directory, Distrusted, Member, OnlineKey, Root
from aifn_fedgate.signing import OnlineKeys, SigningKey, read_online, read_signing, verify, write_secret

ROOTS = 3
THRESHOLD = 2


@dataclass(frozen=True)
class NewMember:
    """Who joins, and where it answers."""

    name: str
    kind: MemberKind
    endpoints: Sequence[str] = ()


def make_federation(folder: Path, members: Sequence[NewMember]) -> None:
    """The whole ceremony on one machine, for a local federation. See docs/federation.md for the files."""
    make_roots(folder)
    entries = {one.name: join(folder / "members" / one.name, one) for one in members}
    write_directory(folder, entries)


def make_roots(folder: Path) -> None:
    """New root keys and the first root. Raises FileExistsError where there is one already."""
    if (folder / "public" / "root.1.json").exists():
        raise FileExistsError(f"{folder} has a root already")
    keys = [SigningKey.generate() for _ in range(ROOTS)]
    for number, key in enumerate(keys, start=1):
        write_secret(folder / "roots" / f"root-{number}.key.json", key.as_jwk())
    _write_root(folder, 1, keys, keys)


def rotate_root(folder: Path, old: Sequence[Path]) -> Path:
    """Replace the root keys: the next root is signed by the old ones in `old` and by all new ones. Returns its path."""
    before, known = [read_signing(path) for path in old], newest_root(folder)
    fresh = [SigningKey.generate() for _ in range(ROOTS)]
    path = _write_root(folder, known.version + 1, fresh, [*before, *fresh])
    try:
        rules.next_root(known, path.read_text(), verify)
    except Distrusted:
        path.unlink()
        raise
    for number, key in enumerate(fresh, start=1):
        write_secret(folder / "roots" / f"root-{known.version + 1}-{number}.key.json", key.as_jwk())
    return path


def _write_root(folder: Path, version: int, keys: Sequence[SigningKey], signers: Sequence[SigningKey]) -> Path:
    content = {
        "type": "root",
        "version": version,
        "threshold": THRESHOLD,
        "keys": {key.kid: key.public for key in keys},
    }
    path = folder / "public" / f"root.{version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rules.write_document("root", content, {key.kid: key.sign for key in signers}) + "\n")
    return path


def newest_root(folder: Path) -> Root:
    """The root at the end of the chain. Raises Distrusted, OSError."""
    root = rules.first_root((folder / "public" / "root.1.json").read_text(), verify)
    while (following := folder / "public" / f"root.{root.version + 1}.json").exists():
        root = rules.next_root(root, following.read_text(), verify)
    return root


def join(folder: Path, one: NewMember) -> Member:
    """New keys for a member, and the entry it hands in; signed by its new identity key."""
    identity, online = SigningKey.generate(), OnlineKeys.generate()
    write_secret(folder / "identity.key.json", identity.as_jwk())
    online.write(folder / "online.key.json")
    key = rules.write_statement(
        one.name, identity.public, identity.sign, sign_key=online.signing.public, encrypt_key=online.encrypt_public
    )
    streams = tuple(name for name, stream in STREAMS.items() if stream.inward and one.kind in stream.writers)
    entry = Member(
        kind=one.kind, identity=identity.public, endpoints=tuple(one.endpoints), streams=streams, keys=(key,)
    )
    content = {"member": one.name, "entry": entry.model_dump(mode="json")}
    (folder / "join.json").write_text(json.dumps(content, indent=1) + "\n")
    return entry


def read_join(path: Path) -> tuple[str, Member]:
    """What a member hands in. Raises Distrusted when a key in it is not stated by its identity key."""
    try:
        said = json.loads(path.read_text())
        name, entry = str(said["member"]), Member.model_validate(said["entry"])
    except (ValueError, KeyError, TypeError) as wrong:
        raise Distrusted("not_a_join", f"{path} is not what `aifn fed join` writes: {wrong}") from None
    for key in entry.keys:
        rules.check_statement(name, entry.identity, key, verify)
    return name, entry


def rotate_key(folder: Path, name: str, entry: Member) -> Member:
    """A new online key for a member, stated by its identity key; the old one stays until it is revoked."""
    identity = read_signing(folder / "identity.key.json")
    online = read_online(folder / "online.key.json").renewed()
    key = rules.write_statement(
        name, identity.public, identity.sign, sign_key=online.signing.public, encrypt_key=online.encrypt_public
    )
    fresh = entry.model_copy(update={"keys": (*entry.keys, key)})
    online.write(folder / "online.new.key.json")
    (folder / "join.json").write_text(
        json.dumps({"member": name, "entry": fresh.model_dump(mode="json")}, indent=1) + "\n"
    )
    return fresh


def revoke(entry: Member, kid: str, closed: Mapping[str, tuple[int, int]]) -> Member:
    """The entry with one key ended at these places. Raises Distrusted if it has no such key."""
    if kid not in {key.kid for key in entry.keys}:
        raise Distrusted("unknown_key", f"there is no key {kid}")

    def ended(key: OnlineKey) -> OnlineKey:
        return key.model_copy(update={"closed": dict(closed)}) if key.kid == kid else key

    return entry.model_copy(update={"keys": tuple(ended(key) for key in entry.keys)})


def read_directory(folder: Path) -> Directory:
    """The directory of a folder. Raises Distrusted, OSError."""
    return rules.read_directory(newest_root(folder), (folder / "public" / "directory.json").read_text(), verify)


def write_directory(
    folder: Path,
    members: Mapping[str, Member],
    *,
    signers: Iterable[Path] | None = None,
    now: datetime | None = None,
    days: float = DAYS,
) -> Path:
    """The next version of the directory with these members, signed by these root keys (two of those in the folder).

    Raises: Distrusted, with the old directory left as it was, if the signatures are not enough.
    """
    root = newest_root(folder)
    path = folder / "public" / "directory.json"
    try:
        version = int(rules.content_of(path.read_text())["version"]) + 1
    except FileNotFoundError:
        version = 1
    moment = now or datetime.now(UTC)
    directory = Directory(
        type="directory",
        version=version,
        root_version=root.version,
        issued_at=moment,
        expires_at=moment + timedelta(days=days),
        members=dict(members),
    )
    keys = [read_signing(one) for one in (signers if signers is not None else root_keys(folder, root))]
    text = rules.write_document("directory", directory.model_dump(mode="json"), {key.kid: key.sign for key in keys})
    rules.read_directory(root, text, verify)
    beside = path.with_name("directory.json.new")
    beside.write_text(text + "\n")
    beside.replace(path)
    return path


def root_keys(folder: Path, root: Root) -> list[Path]:
    """As many files of the present root's keys as must sign, where they lie in the folder."""
    found = [path for path in sorted((folder / "roots").glob("*.key.json")) if read_signing(path).kid in root.keys]
    return found[: root.threshold]
