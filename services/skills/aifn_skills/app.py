"""Assembles skills from its rooms."""

from aifn_common.service import Service, run

from aifn_skills import actions, subscribers
from aifn_skills.settings import SkillsSettings

service = Service(
    name="skills",
    package="aifn_skills",
    hears=subscribers.hears,
    settings=SkillsSettings,
    routers=["aifn_skills.api:router"],
    seed=actions.load_seed,
)


def main() -> None:
    """Run in one role: `aifn-skills api|worker|migrate`."""
    run(service)
