"""The development issuer speaks for its personas, to this machine only."""

import base64
import json
import time
from typing import Any

import httpx
import pytest
from aifn_local.issuer import AUDIENCES, DevIssuer, UnknownPersona, create_app, main, personas
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import KeySet

HERE = "http://127.0.0.1:8099"


def claims_of(token: str, keys: dict[str, Any]) -> dict[str, Any]:
    return jwt.decode(token, KeySet.import_key_set(keys), algorithms=["ES256"]).claims  # type: ignore[arg-type]


def client(issuer: DevIssuer, *, caller: str = "127.0.0.1", name: str = HERE) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(issuer), client=(caller, 4711)), base_url=name)


async def test_discovery_leads_to_a_token_that_the_published_key_proves() -> None:
    async with client(DevIssuer(HERE)) as http:
        found = (await http.get("/.well-known/openid-configuration")).json()
        answer = await http.post(found["token_endpoint"], data={"persona": "factory-admin"})
        keys = (await http.get(found["jwks_uri"])).json()
    body = answer.json()
    assert (answer.status_code, body["token_type"], body["expires_in"]) == (200, "Bearer", 3600)
    claims = claims_of(body["access_token"], keys)
    assert claims["iss"] == found["issuer"] == HERE
    assert claims["aud"] == list(AUDIENCES)
    assert claims["entitlements"] == ["factory-admin:factory:lumi-aif"]
    assert claims["exp"] - claims["iat"] == 3600
    assert abs(claims["iat"] - time.time()) < 60
    assert "d" not in keys["keys"][0]


async def test_a_test_may_ask_for_another_subject_and_other_roles() -> None:
    issuer = DevIssuer(HERE)
    async with client(issuer) as http:
        answer = await http.post(
            "/token", data={"persona": "pi", "subject": "zoe", "roles": ["applicant", "auditor:federation:*"]}
        )
    claims = claims_of(answer.json()["access_token"], issuer.jwks())
    assert (claims["sub"], claims["entitlements"]) == ("zoe", ["applicant", "auditor:federation:*"])


async def test_the_newcomer_may_do_nothing() -> None:
    issuer = DevIssuer(HERE)
    assert claims_of(issuer.token("newcomer"), issuer.jwks())["entitlements"] == []


def test_claims_can_be_overridden_and_left_out() -> None:
    issuer = DevIssuer(HERE)
    claims = claims_of(issuer.token("pi", exp=1, jti=None), issuer.jwks())
    assert claims["exp"] == 1
    assert "jti" not in claims


def test_every_issuer_has_a_key_of_its_own() -> None:
    ours, theirs = DevIssuer(HERE), DevIssuer(HERE)
    forged = dict(theirs.jwks()["keys"][0], kid=ours.jwks()["keys"][0]["kid"])
    with pytest.raises(BadSignatureError):
        claims_of(ours.token("pi"), {"keys": [forged]})


async def test_an_unknown_persona_is_refused_by_name() -> None:
    with pytest.raises(UnknownPersona):
        DevIssuer(HERE).token("emperor")
    async with client(DevIssuer(HERE)) as http:
        for form in ({"persona": "emperor"}, {}):
            answer = await http.post("/token", data=form)
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_form_that_is_too_large_is_refused() -> None:
    async with client(DevIssuer(HERE)) as http:
        assert (await http.post("/token", data={"persona": "p" * 20_000})).status_code == 400


@pytest.mark.parametrize(("caller", "name"), [("192.0.2.7", HERE), ("127.0.0.1", "http://evil.example:8099")])
async def test_only_this_machine_is_answered_and_only_by_its_own_name(caller: str, name: str) -> None:
    async with client(DevIssuer(HERE), caller=caller, name=name) as http:
        assert (await http.post("/token", data={"persona": "pi"})).status_code == 403


def test_it_refuses_to_serve_another_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "0.0.0.0"]) == 2  # noqa: S104
    assert "loopback only" in capsys.readouterr().err


async def test_the_list_of_personas_has_everybody_with_what_they_may_do() -> None:
    async with client(DevIssuer(HERE)) as http:
        listed = (await http.get("/personas")).json()
    assert [entry["persona"] for entry in listed] == list(personas())
    assert {"newcomer", "pi", "operator", "auditor"} <= set(personas())


def test_people_of_another_factory_have_their_roles_there() -> None:
    token = DevIssuer(factory="bsc-aif").token("data-steward")
    said = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert said["entitlements"] == ["data-steward:factory:bsc-aif"]
    assert personas()["data-steward"].entitlements == ("data-steward:factory:lumi-aif",)
