"""No route of any service answers a stranger, and none answers somebody who has not signed in."""

import json
from collections.abc import Iterator

import pytest
from aifn_common.answering import describe_api
from aifn_local.factory import API_SERVICES, service_of

from tests.support.backends import Backends
from tests.support.http import asking
from tests.support.openapi import Call, calls
from tests.support.settings import settings


def every_call() -> Iterator[tuple[str, Call]]:
    for name in API_SERVICES:
        for call in calls(json.loads(json.dumps(describe_api(service_of(name)).openapi()))):
            yield name, call


EVERY = list(every_call())


def test_there_are_routes_in_every_service() -> None:
    assert {name for name, _ in EVERY} == set(API_SERVICES)
    assert len(EVERY) > 60


@pytest.mark.parametrize("name", API_SERVICES)
async def test_a_stranger_with_a_valid_token_is_refused_everywhere(name: str, backends: Backends) -> None:
    service = service_of(name)
    values = {"pseudonym_key": "0" * 32} if name == "accounting" else {}
    async with (
        backends.database(service.package) as db,
        asking(service, db, settings(service.settings, **values)) as asker,
    ):
        asker.as_("newcomer")
        wrong = []
        for call in (call for of, call in EVERY if of == name):
            answer = await asker.request(
                call.method, call.path, params=call.query, headers=call.headers, json=call.body
            )
            if answer.status_code not in (403, 404):
                wrong.append(f"{call}: {answer.status_code} {answer.text[:300]}")
        assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", API_SERVICES)
async def test_nobody_is_answered_without_a_token(name: str, backends: Backends) -> None:
    service = service_of(name)
    values = {"pseudonym_key": "0" * 32} if name == "accounting" else {}
    async with (
        backends.database(service.package) as db,
        asking(service, db, settings(service.settings, **values)) as asker,
    ):
        for call in (call for of, call in EVERY if of == name):
            answer = await asker.request(
                call.method, call.path, params=call.query, headers=call.headers, json=call.body
            )
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), str(call)
