"""The program that says of a restored database whether its books hold."""

from collections.abc import AsyncIterator

import pytest
from aifn_accounting import verify
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store.reads import Check
from aifn_common.service import CannotStart
from aifn_common.settings import WrongSetting

from tests.support.backends import Backends
from tests.support.settings import settings

KEY = "a key for this test only"


@pytest.fixture
async def restored(backends: Backends) -> AsyncIterator[str]:
    """The address of a database with accounting's schema."""
    url = await backends.new_database("aifn_accounting")
    yield url
    await backends.drop(url)


async def test_every_check_of_a_restored_database_is_told_and_an_older_or_absent_one_is_refused_in_a_line(
    backends: Backends, restored: str
) -> None:
    checks = await verify.verify(settings(AccountingSettings, database_url=restored, pseudonym_key=KEY))
    assert checks
    assert [one.name for one in checks if one.differing] == []
    empty = await backends.new_database("aifn_common")
    try:
        with pytest.raises(CannotStart, match="aifn_accounting") as ended:
            await verify.verify(settings(AccountingSettings, database_url=empty, pseudonym_key=KEY))
    finally:
        await backends.drop(empty)
    assert ended.value.status == 65
    nowhere = "postgresql://nobody:nothing@127.0.0.1:1/none"
    with pytest.raises(CannotStart, match="cannot be reached") as ended:
        await verify.verify(settings(AccountingSettings, database_url=nowhere, pseudonym_key=KEY), patience_seconds=0.5)
    assert ended.value.status == 69


@pytest.mark.parametrize(("differing", "status", "words"), [(0, 0, ": holds"), (2, 1, "DOES NOT HOLD in 2 places")])
def test_it_ends_with_1_if_a_check_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], differing: int, status: int, words: str
) -> None:
    async def found(_: AccountingSettings) -> list[Check]:
        return [Check("held", "lumi/lumi-g/gpu-time", 7, 7 + differing, differing)]

    monkeypatch.setattr(verify, "read_settings", lambda _: None)
    monkeypatch.setattr(verify, "verify", found)
    assert verify.main() == status
    assert words in capsys.readouterr().out


def test_a_wrong_setting_is_one_line_and_78(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:
        raise WrongSetting("AIFN_FACTORY is not set")

    monkeypatch.setattr(verify, "read_settings", refuse)
    assert verify.main() == 78
    assert capsys.readouterr().err == "aifn-accounting: AIFN_FACTORY is not set\n"
