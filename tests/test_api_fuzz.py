"""Whatever a signed-in person sends to any route, no service answers with a fault of its own."""

import asyncio
from typing import Any

import pytest
import schemathesis
from aifn_common.answering import make_api
from aifn_local.factory import API_SERVICES, service_of
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pydantic import SecretStr
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from tests.support.backends import Backends
from tests.support.http import ISSUER, validator
from tests.support.settings import settings

EVERYTHING = [
    f"{role}:factory:lumi-aif"
    for role in ("factory-admin", "access-manager", "allocation-manager", "data-steward", "trainer", "operator")
]
EXAMPLES_FOR_EACH_ROUTE = 8


@pytest.mark.parametrize("name", API_SERVICES)
def test_no_request_makes_a_service_fail(name: str, backends: Backends) -> None:
    service = service_of(name)
    # A stream ends with what is there; nobody would wait for its end otherwise.
    values = {"pseudonym_key": "0" * 32, "stream_seconds": 0} if name == "accounting" else {}
    url = asyncio.run(backends.new_database(service.package))
    app = make_api(
        service,
        settings(service.settings, **values).model_copy(update={"database_url": SecretStr(url)}),
        validator=validator(service),
    )
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    token = ISSUER.token("auditor", entitlements=[*EVERYTHING, "applicant", "auditor:federation:*"])
    headers = {"authorization": f"Bearer {token}"}
    seen = 0
    for found in document.get_all_operations():
        assert isinstance(found, Ok), f"the document of {name} is wrong: {found.err()}"
        operation = found.ok()

        @effort(max_examples=EXAMPLES_FOR_EACH_ROUTE, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(), if_match=st.sampled_from(['"r0"', '"r1"', "*", "r0"]))
        def ask(case: "schemathesis.Case[Any]", if_match: str) -> None:
            own = {} if case.method in ("GET", "POST") else {"if-match": if_match}
            case.call_and_validate(headers=headers | own, checks=[not_a_server_error])

        ask()
        seen += 1
    assert seen > 5
    asyncio.run(backends.drop(url))
