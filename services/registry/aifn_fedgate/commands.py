"""`aifn fed`: the offline work with keys and the directory, and questions to one's own gate."""

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from aifn_events.federation import MemberKind

from aifn_fedgate import ceremony
from aifn_fedgate.domain import directory as rules
from aifn_fedgate.domain.directory import Distrusted, Member, Trust
from aifn_fedgate.domain.envelope import Envelope, Malformed, read
from aifn_fedgate.signing import WrongKeyFile, verify

app = typer.Typer(help="The federation: keys, directory, and how the gate is getting on.", no_args_is_help=True)
Folder = Annotated[Path, typer.Option("--folder", help="The folder of the ceremony.")]
Gate = Annotated[str, typer.Option("--gate", help="Where your gate answers.", envvar="AIFN_FED_GATE")]
Roots = Annotated[list[Path] | None, typer.Option("--root-key", help="A root key that signs; give enough of them.")]
HERE = Path("federation")
LOCAL_GATE = "http://127.0.0.1:8000"
_SECONDS = 30


def _stop(why: str) -> NoReturn:
    typer.echo(f"aifn fed: {why}", err=True)
    raise typer.Exit(1)


@app.command()
def init(folder: Folder = HERE) -> None:
    """Make three root keys and the first root. Two of the keys sign from now on; keep them apart, and offline."""
    try:
        ceremony.make_roots(folder)
    except OSError as fault:
        _stop(str(fault))
    typer.echo(f"{folder}/roots has the keys; {folder}/public/root.1.json is for everybody")


@app.command()
def join(
    member: Annotated[str, typer.Argument(help="Two to twenty small letters, digits and hyphens; never used again.")],
    kind: Annotated[str, typer.Option(help="factory, antenna, ju or fund-holder.")] = "factory",
    endpoint: Annotated[list[str] | None, typer.Option(help="Where your gate answers over HTTPS.")] = None,
    folder: Folder = HERE,
) -> None:
    """Make your keys, and the file that you hand to those who sign the directory."""
    own = folder / "members" / member
    if own.exists():
        _stop(f"{own} is there already; use rotate-key for a new online key")
    kinds: dict[str, MemberKind] = {
        "factory": "factory",
        "antenna": "antenna",
        "ju": "ju",
        "fund-holder": "fund-holder",
    }
    if kind not in kinds:
        _stop(f"{kind} is no kind of member: use {', '.join(kinds)}")
    try:
        ceremony.join(own, ceremony.NewMember(member, kinds[kind], endpoint or []))
    except (OSError, ValueError) as wrong:
        _stop(str(wrong))
    typer.echo(
        f"hand in {own}/join.json; {own}/online.key.json is your gate's AIFN_FED_KEY; keep identity.key.json offline"
    )


@app.command()
def directory(
    add: Annotated[list[Path] | None, typer.Option(help="A join.json to take in, new or changed.")] = None,
    leave: Annotated[list[str] | None, typer.Option(help="A member that has left.")] = None,
    root_key: Roots = None,
    days: Annotated[float, typer.Option(help="How long it holds.", min=0.01, max=30)] = rules.DAYS,
    rotate_root: Annotated[bool, typer.Option(help="First replace all root keys by new ones.")] = False,
    folder: Folder = HERE,
) -> None:
    """Write and sign the next version of the directory; without changes, the same members for another week."""
    try:
        if rotate_root:
            ceremony.rotate_root(folder, root_key or ceremony.root_keys(folder, ceremony.newest_root(folder)))
            root_key = None
            members = _members(folder, checked=False)
        else:
            members = _members(folder)
        for path in add or []:
            name, entry = ceremony.read_join(path)
            if name in members and members[name].identity != entry.identity:
                _stop(f"{name} is in the directory with another identity key")
            closed = {key.kid: key.closed for key in members[name].keys} if name in members else {}
            keys = tuple(key.model_copy(update={"closed": closed.get(key.kid)}) for key in entry.keys)
            members[name] = entry.model_copy(update={"keys": keys})
        for name in leave or []:
            if name not in members:
                _stop(f"there is no member {name}")
            members[name] = members[name].model_copy(update={"left": True})
        path = ceremony.write_directory(folder, members, signers=root_key, days=days)
    except (OSError, Distrusted, WrongKeyFile) as wrong:
        _stop(str(wrong))
    said = rules.content_of(path.read_text())
    typer.echo(f"{path}: version {said['version']}, {len(said['members'])} members, until {said['expires_at']}")


def _members(folder: Path, *, checked: bool = True) -> dict[str, Member]:
    path = folder / "public" / "directory.json"
    if not path.exists():
        return {}
    if checked:
        return dict(ceremony.read_directory(folder).members)
    return {name: Member.model_validate(one) for name, one in rules.content_of(path.read_text())["members"].items()}


@app.command("rotate-key")
def rotate_key(member: str, folder: Folder = HERE) -> None:
    """Make a new online key for yourself, stated by your identity key."""
    own = folder / "members" / member
    try:
        name, entry = ceremony.read_join(own / "join.json")
        ceremony.rotate_key(own, name, entry)
    except (OSError, Distrusted, WrongKeyFile) as wrong:
        _stop(str(wrong))
    typer.echo(
        f"hand in {own}/join.json again; once the directory has it, put online.new.key.json in the place of"
        f" online.key.json, start the gate again, and have the old key revoked"
    )


@app.command()
def revoke(
    member: str,
    kid: Annotated[str, typer.Option(help="The key to end.")],
    closing: Annotated[
        list[str] | None, typer.Option(help="STREAM=EPOCH:SEQ, the last place it may stand for; others end at once.")
    ] = None,
    root_key: Roots = None,
    folder: Folder = HERE,
) -> None:
    """End a member's key from a place on, in a new version of the directory."""
    try:
        members = _members(folder)
        if member not in members:
            _stop(f"there is no member {member}")
        members[member] = ceremony.revoke(members[member], kid, _places(closing or []))
        ceremony.write_directory(folder, members, signers=root_key)
    except (OSError, Distrusted, WrongKeyFile) as wrong:
        _stop(str(wrong))
    typer.echo(f"{kid} of {member} is closed: put the new directory.json where the gates look")


def _places(texts: list[str]) -> dict[str, tuple[int, int]]:
    found = {}
    for text in texts:
        stream, _, place = text.partition("=")
        epoch, _, seq = place.partition(":")
        if not stream or not epoch.isdigit() or not seq.isdigit():
            _stop(f"{text} is not like capacity=1:200")
        found[stream] = (int(epoch), int(seq))
    return found


@app.command()
def status(
    gate: Gate = LOCAL_GATE, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """For each peer and stream: age of the newest event, place, gaps, verdicts."""
    found = _ask(gate, "/fed/v1/peers")
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{found['member']}, directory {found['directory_version']} until {found['directory_expires_at']}")
    typer.echo(f"{'member':<14}{'stream':<15}{'age s':>8}{'epoch':>6}{'seq':>9}{'gap':>6}{'wait':>6}  verdicts")
    for one in found["streams"]:
        verdicts = " ".join(f"{name}={count}" for name, count in sorted(one["verdicts"].items()))
        frozen = " FROZEN" if one["frozen"] else ""
        typer.echo(
            f"{one['origin']:<14}{one['stream']:<15}{one['last_event_seconds']:>8.0f}{one['epoch']:>6}{one['seq']:>9}"
            f"{one['missing']:>6}{one['waiting']:>6}  {verdicts}{frozen}"
        )
    for alarm in (one for one in found["alarms"] if one["ended_at"] is None):
        typer.echo(f"ALARM {alarm['alarm']} {alarm['origin']}/{alarm['stream']}: {alarm['detail']}")


@app.command()
def backfill(member: str, gate: Gate = LOCAL_GATE) -> None:
    """Ask a member for whatever is missing of it, now."""
    found = _ask(gate, f"/fed/v1/peers/{member}/backfill", method="POST")
    typer.echo(f"{found['came']} envelopes came")


@app.command("export-evidence")
def export_evidence(
    file: Annotated[Path, typer.Argument(help="Where to write.")],
    member: Annotated[str | None, typer.Option(help="Only against this member.")] = None,
    gate: Gate = LOCAL_GATE,
) -> None:
    """Write the proofs against other members, with all that is needed to check them offline."""
    found = _ask(gate, "/fed/v1/evidence", params={"member": member} if member else {})
    file.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(f"{file}: {len(found['proofs'])} proofs")


@app.command("verify")
def verify_file(
    file: Annotated[Path, typer.Argument(help="What export-evidence wrote, or envelopes, one on a line.")],
    folder: Folder = HERE,
    root: Annotated[Path | None, typer.Option(help="The first root, if not that of the folder.")] = None,
) -> None:
    """Check signatures offline, from the first root on; ends with 1 if any does not hold."""
    try:
        text = file.read_text()
        first = (root or folder / "public" / "root.1.json").read_text()
        if text.lstrip().startswith("{"):
            lines, good = _check_evidence(json.loads(text), first)
        else:
            lines, good = _check_lines(text.splitlines(), ceremony.read_directory(folder), folder)
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        _stop(f"{file}: {wrong}")
    for line in lines:
        typer.echo(line)
    if not good:
        raise typer.Exit(1)


def _check_evidence(said: dict[str, Any], first: str) -> tuple[list[str], bool]:
    known = rules.first_root(first, verify)
    roots = {known.version: known}
    for text in said["roots"]:
        if rules.content_of(text).get("version") == known.version + 1:
            known = roots[known.version + 1] = rules.next_root(known, text, verify)
    trusts: dict[int, Trust] = {}
    for text in said["directories"]:
        root = roots[int(rules.content_of(text)["root_version"])]
        found = rules.read_directory(root, text, verify)
        trusts[found.version] = Trust.of(root, found)
    lines, good = [], True
    for proof in said["proofs"]:
        trust = trusts.get(proof["directory_version"])
        parts = [read(proof[name].encode()) for name in ("ours", "theirs") if proof[name]]
        holds = trust is not None and all(_signed(trust, one) == proof["origin"] for one in parts)
        good = good and holds and bool(parts)
        places = " and ".join(f"{one.header.epoch}/{one.header.seq} {one.hash.hex()[:12]}" for one in parts)
        word = "signed" if holds else "NOT PROVEN"
        lines.append(f"{proof['alarm']} {proof['origin']}/{proof['stream']}: {places}: {word}")
    return lines, good


def _check_lines(texts: list[str], found: rules.Directory, folder: Path) -> tuple[list[str], bool]:
    trust = Trust.of(ceremony.newest_root(folder), found)
    lines, good = [], True
    before: dict[tuple[str, str, int], tuple[int, bytes]] = {}
    for number, text in enumerate(texts, start=1):
        try:
            one = read(text.strip().encode())
        except Malformed as wrong:
            lines.append(f"line {number}: {wrong}")
            good = False
            continue
        h = one.header
        thread = (h.origin, h.stream, h.epoch)
        follows = before.get(thread) in (None, (h.seq - 1, h.prev))
        before[thread] = (h.seq, one.hash)
        owner = _signed(trust, one)
        holds = owner == h.origin and follows
        good = good and holds
        why = (
            "signed" if holds else "does not follow the one before" if owner == h.origin else "NOT SIGNED by its origin"
        )
        lines.append(f"{h.origin}/{h.stream} {h.epoch}/{h.seq}: {why}")
    return lines, good


def _signed(trust: Trust, envelope: Envelope) -> str | None:
    known = trust.by_kid.get(envelope.header.kid)
    if known is None or not verify(known[3], envelope.signature, envelope.signed):
        return None
    covers = known[2].covers(envelope.header.stream, (envelope.header.epoch, envelope.header.seq))
    return known[0] if covers else None


def _ask(gate: str, path: str, *, method: str = "GET", params: dict[str, str] | None = None) -> dict[str, Any]:
    try:
        answer = httpx.request(method, gate.rstrip("/") + path, params=params, timeout=_SECONDS, trust_env=False)
    except httpx.HTTPError as fault:
        _stop(f"the gate does not answer at {gate} ({fault}): say where with --gate")
    found = answer.json() if "json" in answer.headers.get("content-type", "") else {}
    if answer.is_error or not isinstance(found, dict):
        _stop(f"the gate says {answer.status_code}: {found.get('detail', '') if isinstance(found, dict) else ''}")
    return found
