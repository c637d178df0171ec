"""What the gate answers over HTTPS: its own log and everybody's it holds, heads, the directory, and how it is doing."""

from datetime import datetime
from typing import Annotated, Any

from aifn_common.database import Database, transaction
from aifn_common.errors import Forbidden, NotFound, Refusal
from aifn_events.federation import STREAMS
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, Field

from aifn_fedgate.actions import heads
from aifn_fedgate.domain.envelope import from_base64, to_base64
from aifn_fedgate.door import Door
from aifn_fedgate.requests import read_token
from aifn_fedgate.signing import verify
from aifn_fedgate.store import journal, peers

router = APIRouter(prefix="/fed/v1", tags=["federation"])
MOST_PAGE = 1_000
MOST_PAGE_BYTES = 4_194_304
LOOPBACK = ("127.0.0.1", "::1")
MemberPath = Annotated[str, Path(pattern=r"^[a-z0-9-]{2,20}$")]
StreamPath = Annotated[str, Path(pattern=r"^[a-z-]{2,20}$")]
Number = Annotated[int, Query(ge=0, le=2**53 - 1)]
Limit = Annotated[int, Query(ge=1, le=MOST_PAGE)]


class NoLongerHere(Refusal):
    """The log is not whole from that place on; the state is."""

    code = "pruned"
    status = 410


class Envelopes(BaseModel):
    """A page of a log or of a state: each envelope is the exact text that was signed."""

    envelopes: list[str]
    next: str | None = Field(default=None, description="for `after`; null on the last page of a state")


class HeadView(BaseModel):
    """The newest head of a member."""

    envelope: str | None


class DirectoryView(BaseModel):
    """The roots in their order, and the directory in force."""

    roots: list[str]
    directory: str


class StreamStatus(BaseModel):
    """How one stream of one member is getting on."""

    origin: str
    stream: str
    epoch: int
    seq: int
    missing: int = Field(description="places its owner has signed for and we do not have; -1 is a whole epoch")
    waiting: int = Field(description="envelopes that wait for what comes before them")
    keys: int
    digest: str
    frozen: bool
    last_event_seconds: float = Field(description="age of the newest event")
    verdicts: dict[str, int]


class AlarmView(BaseModel):
    """Something that was noticed."""

    origin: str
    stream: str
    alarm: str
    detail: str
    raised_at: datetime
    ended_at: datetime | None


class Status(BaseModel):
    """How the gate is getting on with every other member."""

    member: str
    directory_version: int
    directory_expires_at: datetime | None
    streams: list[StreamStatus]
    last_head_seconds: dict[str, float]
    alarms: list[AlarmView]


class Proof(BaseModel):
    """What an owner signed and should not have."""

    origin: str
    stream: str
    alarm: str
    ours: str | None
    theirs: str
    directory_version: int
    noted_at: datetime


class Evidence(BaseModel):
    """Everything that somebody else needs to check it offline."""

    proofs: list[Proof]
    roots: list[str]
    directories: list[str]


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


def _db(request: Request) -> Database:
    db: Database | None = request.app.state.db
    if db is None:
        raise ConnectionError("the database has not answered yet")
    return db


def _local(request: Request) -> bool:
    return request.client is not None and request.client.host in LOOPBACK and "x-forwarded-for" not in request.headers


def _asker(request: Request) -> str:
    """The member who asks. Raises Unauthenticated."""
    door = _door(request)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if door.trust is None or scheme.lower() != "bearer":
        token = ""
    if door.trust is None:
        raise ConnectionError("no directory is in force yet")
    return read_token(token.strip(), door.me, door.trust, door.now(), verify)


def _operator(request: Request) -> str:
    """Whoever sits on this machine, or a member. Raises Unauthenticated."""
    return "operator" if _local(request) else _asker(request)


def _only_operator(request: Request) -> str:
    """Whoever sits on this machine. Raises Forbidden."""
    if not _local(request):
        raise Forbidden("this is asked on the gate's own machine only")
    return "operator"


DoorOf = Annotated[Door, Depends(_door)]
Db = Annotated[Database, Depends(_db)]
Asker = Annotated[str, Depends(_asker)]
Operator = Annotated[str, Depends(_operator)]
OnlyOperator = Annotated[str, Depends(_only_operator)]


@router.get("/directory", summary="Roots and the directory in force")
async def get_directory(door: DoorOf, db: Db) -> DirectoryView:
    """Open to everybody: its signatures speak for it."""
    found = await door.carried(db)
    if found is None:
        raise NotFound("no directory is in force yet")
    return DirectoryView(roots=found[0], directory=found[1])


@router.get("/heads", summary="The newest head of a member")
async def get_head(
    door: DoorOf, db: Db, _: Asker, member: Annotated[str, Query(pattern=r"^[a-z0-9-]{2,20}$")]
) -> HeadView:
    raw = await heads.newest_head(db, door, member)
    return HeadView(envelope=raw.decode() if raw else None)


@router.get("/streams/{member}/{stream}", summary="A log, in order")
async def get_journal(
    member: MemberPath, stream: StreamPath, db: Db, _: Asker, epoch: Number, after: Number = 0, limit: Limit = MOST_PAGE
) -> Envelopes:
    """From the place after `after` on. 410 if the log is not whole from there: read the state then."""
    _known(stream)
    async with transaction(db) as tx:
        rows = await journal.page(tx, member, stream, epoch, after, limit)
    if rows and rows[0]["seq"] != after + 1:
        raise NoLongerHere(f"the log of {member}/{stream} begins at {rows[0]['seq']} here")
    taken: list[str] = []
    size = 0
    for number, row in enumerate(rows):
        size += len(row["raw"])
        if taken and (size > MOST_PAGE_BYTES or row["seq"] != after + 1 + number):
            break
        taken.append(row["raw"].decode())
    return Envelopes(envelopes=taken)


@router.get("/streams/{member}/{stream}/state", summary="The newest envelope of each thing")
async def get_state(
    member: MemberPath,
    stream: StreamPath,
    db: Db,
    _: Asker,
    after: Annotated[str, Query(pattern=r"^([A-Za-z0-9_-]{43})?$")] = "",
    limit: Limit = MOST_PAGE,
) -> Envelopes:
    """By the hash of the key."""
    _known(stream)
    async with transaction(db) as tx:
        rows = await journal.state_page(tx, member, stream, from_base64(after.encode()), limit)
    taken: list[str] = []
    size, last = 0, b""
    for row in rows:
        size += len(row["raw"])
        if taken and size > MOST_PAGE_BYTES:
            break
        taken.append(row["raw"].decode())
        last = row["key_hash"]
    more = len(taken) < len(rows) or len(rows) == limit
    return Envelopes(envelopes=taken, next=to_base64(last) if more else None)


def _known(stream: str) -> None:
    if stream not in STREAMS:
        raise NotFound(f"there is no stream {stream}")


@router.get("/peers", summary="How the gate is getting on with every other member")
async def get_peers(door: DoorOf, db: Db, _: Operator) -> Status:
    async with transaction(db) as tx:
        rows, counted = await peers.stream_rows(tx), await peers.verdict_counts(tx)
        alarms, heard = await peers.alarms(tx), await peers.last_heard(tx)
    verdicts: dict[tuple[str, str], dict[str, int]] = {}
    for row in counted:
        verdicts.setdefault((row["origin"], row["stream"]), {})[row["verdict"]] = row["count"]
    now, trust = door.now(), door.trust
    return Status(
        member=door.me,
        directory_version=door.directory_version,
        directory_expires_at=trust.directory.expires_at if trust else None,
        streams=[_stream_status(row, verdicts.get((row["origin"], row["stream"]), {}), now) for row in rows],
        last_head_seconds={name: (now - at).total_seconds() for name, at in sorted(heard.items())},
        alarms=[AlarmView(**dict(row)) for row in alarms],
    )


def _stream_status(row: Any, verdicts: dict[str, int], now: datetime) -> StreamStatus:
    missing = row["seen_seq"] - row["seq"] if row["seen_epoch"] == row["epoch"] else -1
    return StreamStatus(
        origin=row["origin"],
        stream=row["stream"],
        epoch=row["epoch"],
        seq=row["seq"],
        missing=missing,
        waiting=row["waiting"],
        keys=row["keys"],
        digest=row["digest"].hex(),
        frozen=row["frozen"],
        last_event_seconds=(now - row["moved_at"]).total_seconds(),
        verdicts=verdicts,
    )


@router.get("/evidence", summary="Proofs against a member, with all that is needed to check them offline")
async def get_evidence(
    db: Db, _: OnlyOperator, member: Annotated[str | None, Query(pattern=r"^[a-z0-9-]{2,20}$")] = None
) -> Evidence:
    async with transaction(db) as tx:
        rows = await peers.evidence(tx, member)
        roots, directories = await peers.documents(tx, "root"), await peers.documents(tx, "directory")
    proofs = [
        Proof(
            origin=row["origin"],
            stream=row["stream"],
            alarm=row["alarm"],
            ours=row["ours"].decode() if row["ours"] else None,
            theirs=row["theirs"].decode(),
            directory_version=row["directory_version"],
            noted_at=row["noted_at"],
        )
        for row in rows
    ]
    return Evidence(proofs=proofs, roots=roots, directories=directories)


class Asked(BaseModel):
    """What a backfill brought."""

    came: int


@router.post("/peers/{member}/backfill", summary="Ask a member for whatever is missing, now")
async def backfill(request: Request, member: MemberPath, _: OnlyOperator) -> Asked:
    repair = request.app.state.repair
    if repair is None:
        raise ConnectionError("the gate has not begun yet")
    await repair.peek(member)
    return Asked(came=await repair.close_gaps())
