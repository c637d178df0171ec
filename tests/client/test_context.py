"""Where the services are and who I am: files, environment, tokens that end."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aifn_client.context import Context, Token, claims_of, current_token
from aifn_client.errors import ClientError, Misuse, SignInNeeded, UnknownPlace

from tests.client.conftest import ISSUER, jwt

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
HERE = Context(factory="lumi-aif", issuer=ISSUER, services={"scheduler": "http://127.0.0.1:8003"})


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def token(persona: str = "operator", *, issuer: str = ISSUER, seconds: int = 3600) -> Token:
    return Token.received(jwt(sub="otto"), issuer=issuer, seconds=seconds, persona=persona, now=NOW)


def test_a_context_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    context = HERE.model_copy(update={"clock": "3600 times as fast, from 2017-10-03"})
    context.save(tmp_path)
    assert Context.load(tmp_path, {}) == context


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_nobody_else_may_read_either_file_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        paths = [HERE.save(tmp_path / "new"), token().save(tmp_path / "new")]
    finally:
        os.umask(before)
    assert [path.name for path in paths] == ["context.json", "token.json"]
    assert [mode_of(path) for path in paths] == [0o600, 0o600]
    assert mode_of(tmp_path / "new") & 0o077 == 0


def test_a_file_that_others_could_read_is_private_once_it_is_saved_again(tmp_path: Path) -> None:
    path = token().save(tmp_path)
    path.chmod(0o644)
    assert mode_of(token("pi").save(tmp_path)) == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == ["token.json"]


def test_the_environment_wins_over_what_was_saved(tmp_path: Path) -> None:
    HERE.save(tmp_path)
    said = {"AIFN_URL_SCHEDULER": "https://jobs.example.eu/", "AIFN_URL_SITE_AGENT": "http://a:1", "AIFN_ISSUER": "x"}
    context = Context.load(tmp_path, said)
    assert context.url("scheduler") == "https://jobs.example.eu"
    assert context.url("site-agent") == "http://a:1"
    assert context.issuer == "x"


def test_the_folder_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIFN_CONFIG_HOME", str(tmp_path / "mine"))
    assert HERE.save() == tmp_path / "mine" / "context.json"
    assert Context.load(environment={}, folder=tmp_path / "mine") == HERE


def test_a_forgotten_context_is_gone_and_may_be_forgotten_twice(tmp_path: Path) -> None:
    HERE.save(tmp_path)
    Context.forget(tmp_path)
    Context.forget(tmp_path)
    assert Context.load(tmp_path, {}) == Context()


def test_an_unknown_service_says_which_variable_would_tell() -> None:
    with pytest.raises(UnknownPlace) as caught:
        HERE.url("accounting")
    assert "AIFN_URL_ACCOUNTING" in caught.value.advice
    assert caught.value.exit_status == 3


@pytest.mark.parametrize("place", ["localhost:8003", "ftp://host", "http://", "nonsense"])
def test_what_is_no_address_is_refused_as_misuse(place: str) -> None:
    with pytest.raises(Misuse, match="no address"):
        HERE.model_copy(update={"services": {"scheduler": place}}).url("scheduler")


def test_a_damaged_file_is_named_instead_of_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "context.json").write_text('{"services": 7}')
    with pytest.raises(ClientError, match="damaged"):
        Context.load(tmp_path, {})


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClientError) as caught:
        HERE.save(tmp_path / "file")
    assert "AIFN_CONFIG_HOME" in caught.value.advice


def test_a_saved_token_counts_until_its_last_second(tmp_path: Path) -> None:
    token(seconds=60).save(tmp_path)
    last = NOW + timedelta(seconds=59)
    assert current_token(HERE, folder=tmp_path, environment={}, now=last).subject == "otto"
    with pytest.raises(SignInNeeded, match="expired") as caught:
        current_token(HERE, folder=tmp_path, environment={}, now=last + timedelta(seconds=1))
    assert caught.value.advice == "sign in again: aifn login --as operator"


def test_without_a_token_one_is_told_how_to_sign_in(tmp_path: Path) -> None:
    with pytest.raises(SignInNeeded) as caught:
        current_token(HERE, folder=tmp_path, environment={}, now=NOW)
    assert caught.value.advice == "sign in: aifn login --as pi"


def test_a_token_is_never_shown_to_the_services_of_another_issuer(tmp_path: Path) -> None:
    token(issuer="http://127.0.0.1:9999").save(tmp_path)
    with pytest.raises(SignInNeeded, match="9999"):
        current_token(HERE, folder=tmp_path, environment={}, now=NOW)


def test_the_token_of_the_environment_wins_and_expires_too(tmp_path: Path) -> None:
    token().save(tmp_path)
    fresh = jwt(sub="mari", exp=int(NOW.timestamp()) + 1)
    assert current_token(HERE, folder=tmp_path, environment={"AIFN_TOKEN": fresh}, now=NOW).subject == "mari"
    stale = jwt(sub="mari", exp=int(NOW.timestamp()))
    with pytest.raises(SignInNeeded) as caught:
        current_token(HERE, folder=tmp_path, environment={"AIFN_TOKEN": stale}, now=NOW)
    assert "AIFN_TOKEN" in caught.value.advice


@pytest.mark.parametrize("words", ["", "opaque", "a.b", "a.!!!.c", "a.W10.c", "a.bm90IGpzb24.c"])
def test_a_token_that_is_no_jwt_says_nothing_of_itself(words: str) -> None:
    assert claims_of(words) == {}
