"""A federation as a newcomer sees it: members with brokers of their own, relays, mirrors, gates; and what breaks."""

import asyncio
import os

import pytest
from aifn_local.federation.demo import Demo, Outcome
from aifn_local.federation.members import name_relays, read_members
from aifn_local.federation.start import Federation, running

pytestmark = [
    pytest.mark.journey,
    pytest.mark.kafka,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not os.environ.get("AIFN_FEDERATION"), reason="a dozen JVMs for minutes: make test-federation"),
]

JU, HOME, OWNER, THIRD = "ju", "lumi-aif", "bsc-aif", "l-aif"


async def play(federation: Federation) -> Outcome:
    return await Demo(federation, HOME, OWNER, THIRD, JU, lambda _: None).run()


def test_members_find_each_others_data_and_notice_and_repair_what_goes_wrong_between_them() -> None:
    with running(read_members(f"{JU},{HOME},{OWNER},{THIRD}"), name_relays(2)) as federation:
        outcome = asyncio.run(play(federation))

    assert [f"{one.statement}: {one.numbers}" for one in outcome.checks if not one.holds] == []
    assert len(outcome.checks) >= 24
    owned = {one.stream for one in outcome.views[HOME].streams if one.origin == OWNER}
    assert owned >= {"capacity", "catalogue", "skills", "knowledge", "head", "directory"}
    assert {one.stream for one in outcome.views[OWNER].streams if one.origin == JU} >= {"access", "award"}
    forged = {reader: outcome.views[reader].count(OWNER, "catalogue", "quarantined") for reader in (HOME, THIRD)}
    assert min(forged.values()) >= 1, "the altered message reached both, and neither believed it"
