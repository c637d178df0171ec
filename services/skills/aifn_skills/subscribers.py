"""What skills hears: awards, machines, and who belongs to which project."""

from aifn_common import membership
from aifn_common.inbox import deliver_once
from aifn_common.kafka import Db, Subscriptions
from aifn_events.access import AwardGranted, ProjectDescribed
from aifn_events.registry import MachineDescribed

from aifn_skills import actions
from aifn_skills.settings import SkillsSettings

hears = Subscriptions("skills")


@hears(AwardGranted)
async def on_award_granted(event: AwardGranted, db: Db, settings: SkillsSettings) -> None:
    """An award may be a reason to suggest a course, at its hosting factory and nowhere else."""
    if event.factory_id == settings.factory:
        await deliver_once(db, event, actions.remember_award)


@hears(MachineDescribed)
async def on_machine_described(event: MachineDescribed, db: Db) -> None:
    """A machine's GPUs decide which course helps."""
    await deliver_once(db, event, actions.remember_machine)


@hears(ProjectDescribed)
async def on_project_described(event: ProjectDescribed, db: Db) -> None:
    """Members may read what was suggested to their project."""
    await deliver_once(db, event, membership.remember_project)
