"""Builders, so that a test says only what it is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aifn_common import clock
from aifn_common.database import Database, transaction
from aifn_events.access import AwardGranted, ProjectDescribed
from aifn_events.registry import MachineDescribed
from aifn_skills import actions
from aifn_skills.domain import Award, Course, Line, Rule, Seat, Session
from aifn_skills.settings import SkillsSettings

from tests.support.settings import settings

SOURCE = "urn:aifn:lumi-aif:test"
NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
LATER = datetime(2126, 12, 3, 8, tzinfo=UTC)
PORTING = Rule("first-amd-project", "rocm-porting", "first award on AMD GPUs", gpu_vendor="AMD")
NEWCOMER = Rule("playground-newcomer", "slurm-first-steps", "Playground is the entry mode", mode="aif_playground")


def course(course_id: str = "porting", **values: Any) -> Course:
    """A course without prerequisites; `values` replace some of its words."""
    words = Course(
        id=course_id,
        revision=0,
        factory_id="lumi-aif",
        title="Porting",
        description="move code",
        kind="workshop",
        level="hpc_familiar",
        topics=("rocm",),
        prerequisites=(),
        language="en",
        hours=8,
    )
    return replace(words, **values)


def session(session_id: str = "porting-1", *, seats: int = 3, starts_at: datetime = LATER, **values: Any) -> Session:
    """A session far in the future."""
    words = Session(
        id=session_id,
        course_id="porting",
        factory_id="lumi-aif",
        title="Porting",
        starts_at=starts_at,
        ends_at=starts_at + timedelta(hours=8),
        teaching="online",
        seats=seats,
    )
    return replace(words, **values)


def award(award_id: str = "award-1", *lines: Line, mode: str = "aif_playground", minute: int = 0) -> Award:
    """An award of project p1, by default on LUMI-G."""
    return Award(
        id=award_id,
        project_id="p1",
        factory_id="lumi-aif",
        mode=mode,
        lines=lines or (Line("lumi", "lumi-g"),),
        granted_at=NOW + timedelta(minutes=minute),
        cause_topic=AwardGranted.topic,
        cause_id=f"event-{award_id}",
        cause_source=SOURCE,
    )


def granted(
    award_id: str = "award-1",
    project_id: str = "p1",
    *,
    machine_id: str = "lumi",
    partition_id: str = "lumi-g",
    mode: str = "aif_playground",
    minute: int = 0,
) -> AwardGranted:
    """Word of an award on one partition."""
    resource = f"{machine_id}/{partition_id}/gpu-time"
    line = {"machine_id": machine_id, "partition_id": partition_id, "resource": resource, "amount": 1}
    event = AwardGranted.example(award_id=award_id, project_id=project_id, mode=mode, lines=[line])
    return event.model_copy(update={"source": SOURCE, "time": NOW + timedelta(minutes=minute)})


def machine(
    machine_id: str = "lumi", partition_id: str = "lumi-g", vendor: str | None = "AMD", revision: int = 0
) -> MachineDescribed:
    """Word of a machine with one partition."""
    partition = MachineDescribed.example().partitions[0].model_dump()
    partition |= {"partition_id": partition_id, "gpu_vendor": vendor}
    event = MachineDescribed.example(machine_id=machine_id, revision=revision, partitions=[partition])
    return event.model_copy(update={"source": SOURCE})


def described(project_id: str = "p1", subject: str = "pi") -> ProjectDescribed:
    """Word of a project and its principal investigator."""
    event = ProjectDescribed.example(project_id=project_id, members=[{"subject": subject, "role": "pi"}])
    return event.model_copy(update={"source": SOURCE})


async def hear(db: Database, *events: AwardGranted | MachineDescribed) -> None:
    """Hear of awards and machines, each in its own transaction."""
    for event in events:
        async with transaction(db) as tx:
            if isinstance(event, AwardGranted):
                await actions.remember_award(tx, event)
            else:
                await actions.remember_machine(tx, event)


async def load(db: Database, factory: str = "lumi-aif") -> None:
    """Load the starter catalogue."""
    async with transaction(db) as tx:
        await actions.load_seed(tx, settings(SkillsSettings, factory=factory))


async def teach(db: Database, *sessions: Session) -> None:
    """Have one course and these sessions of it."""
    async with transaction(db) as tx:
        await actions.add_course(tx, course())
        for one in sessions:
            await actions.schedule_session(tx, one)


async def book(db: Database, session_id: str, subject: str) -> Seat:
    """Book a seat."""
    async with transaction(db) as tx:
        return await actions.book_seat(tx, session_id, subject)


async def give_up(db: Database, session_id: str, subject: str) -> Session:
    """Give a seat back."""
    async with transaction(db) as tx:
        return await actions.give_up_seat(tx, session_id, subject)


def jump_to(moment: datetime) -> None:
    """Let the business clock show this moment from now on."""
    clock.use(clock.SimulatedClock(epoch=moment, started=datetime.now(UTC), factor=1))
