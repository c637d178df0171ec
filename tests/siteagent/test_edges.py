"""How the site agent is put together: what it hears, how it is configured, and what it does at every tick."""

import sys

import pytest
from aifn_common.service import run
from aifn_common.settings import WrongSetting, read_settings
from aifn_events.catalog import TOPICS
from aifn_events.placement import JobStarted
from aifn_siteagent import subscribers, timers
from aifn_siteagent.app import service
from aifn_siteagent.settings import SiteAgentSettings

from tests.siteagent.conftest import Site, dispatched

ENVIRONMENT = {
    "AIFN_FACTORY": "lumi-aif",
    "AIFN_MACHINE": "lumi",
    "AIFN_DATABASE_URL": "postgresql://siteagent@localhost/siteagent",
    "AIFN_KAFKA": "localhost:9092",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The least an agent must be told."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_it_hears_what_the_catalogue_says() -> None:
    expected = {topic.event for topic in TOPICS if "siteagent" in topic.consumers}
    assert {one.kind for one in subscribers.hears.single} == expected
    assert subscribers.hears.batches == []


def test_nodes_are_configured_as_json_and_everything_else_has_a_default(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AIFN_SIMULATED_NODES", '{"lumi-g": 48, "lumi-c": 32}')
    found = read_settings(SiteAgentSettings)
    assert found.simulated_nodes == {"lumi-g": 48, "lumi-c": 32}
    assert (found.backend, found.tick_seconds, found.capacity_report_seconds) == ("simulated", 0.25, 300)
    assert (found.simulated_requeue_per_mille, found.simulated_seed) == (0, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AIFN_MACHINE", "LUMI!"),
        ("AIFN_SIMULATED_NODES", '{"lumi-g": -1}'),
        ("AIFN_SIMULATED_REQUEUE_PER_MILLE", "1001"),
        ("AIFN_TICK_SECONDS", "0"),
        ("AIFN_BACKEND", "abacus"),
    ],
)
def test_a_wrong_setting_is_named(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    with pytest.raises(WrongSetting, match=name):
        read_settings(SiteAgentSettings)


def test_an_agent_must_know_its_machine(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AIFN_MACHINE")
    with pytest.raises(WrongSetting, match="AIFN_MACHINE is not set, for example AIFN_MACHINE=lumi"):
        read_settings(SiteAgentSettings)


def test_it_has_no_api_to_be_started(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment.setattr(sys, "argv", ["aifn-siteagent", "api"])
    with pytest.raises(SystemExit) as ended:
        run(service)
    assert (ended.value.code, capsys.readouterr().err) == (64, "usage: aifn-siteagent worker|migrate\n")


async def test_a_tick_commits_what_it_found(site: Site) -> None:
    site.settings = site.settings.model_copy(update={"tick_seconds": 0.001})
    await site.hear(dispatched())
    site.time.at(10)
    await timers.tick(site.db, site.settings)
    assert [one.job_id for one in await site.told(JobStarted)] == ["job-1"]
