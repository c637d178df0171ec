"""A wrong setting is named in one line; every process of a run agrees what time it is."""

from datetime import UTC, datetime, timedelta

import pytest
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.settings import ServiceSettings, WrongSetting, read_settings
from hypothesis import given
from hypothesis import strategies as st

COMPLETE = {
    "AIFN_FACTORY": "lumi-aif",
    "AIFN_DATABASE_URL": "postgresql://a:secret@db/a",
    "AIFN_KAFKA": "kafka:9092",
}
SIMULATED = {"AIFN_CLOCK_EPOCH": "2017-10-03T00:00:00Z", "AIFN_CLOCK_STARTED": "2026-11-21T09:00:00Z"}


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with what is needed, and nothing else of ours."""
    import os

    for name in [name for name in os.environ if name.startswith("AIFN_")]:
        monkeypatch.delenv(name)
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", COMPLETE)
def test_a_missing_setting_is_named_in_one_line_with_an_example(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(WrongSetting) as wrong:
        read_settings(ServiceSettings)
    assert str(wrong.value).startswith(f"{name} is not set, for example {name}=")
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AIFN_PORT", "70000"),
        ("AIFN_PORT", "eighty"),
        ("AIFN_FACTORY", "LUMI AIF"),
        ("AIFN_TRACE_RATIO", "2"),
        ("AIFN_LOG_LEVEL", "LOUD"),
        ("AIFN_CLOCK_EPOCH", "2017-10-03T00:00:00"),
        ("AIFN_CLOCK_FACTOR", "0"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("AIFN_CLOCK_STARTED", SIMULATED["AIFN_CLOCK_STARTED"])
    monkeypatch.setenv("AIFN_CLOCK_EPOCH", SIMULATED["AIFN_CLOCK_EPOCH"])
    monkeypatch.setenv(name, value)
    with pytest.raises(WrongSetting) as wrong:
        read_settings(ServiceSettings)
    assert str(wrong.value).startswith(f"{name} is wrong: ")
    assert "\n" not in str(wrong.value)
    assert "secret" not in str(wrong.value)


@pytest.mark.parametrize("name", SIMULATED)
def test_half_a_simulated_clock_is_refused_and_not_taken_for_real_time(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, SIMULATED[name])
    with pytest.raises(WrongSetting, match="AIFN_CLOCK_EPOCH and AIFN_CLOCK_STARTED"):
        read_settings(ServiceSettings)


def test_a_password_does_not_show_when_settings_are_printed() -> None:
    assert "secret" not in repr(read_settings(ServiceSettings))


def test_processes_with_the_same_settings_agree_on_simulated_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SIMULATED | {"AIFN_CLOCK_FACTOR": "60"}).items():
        monkeypatch.setenv(name, value)
    one, other = read_settings(ServiceSettings).clock(), read_settings(ServiceSettings).clock()
    assert one == other
    assert one is not None
    assert one.at(datetime(2026, 11, 21, 9, 1, tzinfo=UTC)) == datetime(2017, 10, 3, 1, tzinfo=UTC)


def test_without_a_simulation_the_clock_is_the_real_one_in_utc() -> None:
    assert read_settings(ServiceSettings).clock() is None
    before = datetime.now(UTC)
    now = clock.now()
    assert before <= now <= datetime.now(UTC)
    assert now.utcoffset() == timedelta(0)


moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(moments, moments, st.integers(1, 100_000), st.timedeltas(timedelta(0), timedelta(days=7)))
def test_simulated_time_runs_evenly_and_knows_how_long_to_wait(
    epoch: datetime, started: datetime, factor: int, passed: timedelta
) -> None:
    simulated = SimulatedClock(epoch, started, factor)
    try:
        later = simulated.at(started + passed)
    except OverflowError:
        return
    assert simulated.at(started) == epoch
    assert later - epoch == passed * factor
