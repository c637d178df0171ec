"""A terminal, and services that answer from a table: no test here uses the network."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from aifn_client.context import Context
from aifn_client.main import app
from typer.testing import CliRunner, Result

from tests.client.samples import document, route

SERVICES = ("registry", "accounting", "scheduler", "datalab", "skills")
ISSUER = "http://127.0.0.1:8099"
Answer = httpx.Response | Callable[[httpx.Request], httpx.Response]


def page(*items: Any, then: str | None = None) -> httpx.Response:
    """A page of a list."""
    return httpx.Response(200, json={"items": list(items), "next": then})


def problem(status: int, code: str, detail: str, **members: Any) -> httpx.Response:
    """A refusal as the services word it."""
    body = {"type": f"urn:aifn:problem:{code}", "title": code, "status": status, "detail": detail, "code": code}
    return httpx.Response(
        status, content=json.dumps({**members, **body}), headers={"content-type": "application/problem+json"}
    )


def jwt(**claims: Any) -> str:
    """A token that says these things of itself; nobody here looks at its signature."""
    parts = [{"alg": "ES256"}, claims]
    written = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*written, "c2lnbmF0dXJl"])


@dataclass
class Services:
    """What each path answers, by method, service and path; and every request that was made."""

    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)

    def answer(self, method: str, place: str, *answers: Answer) -> None:
        """Answer a place, e.g. "registry/v1/machines", with these in turn; the last one stays."""
        self.answers[method, place] = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        self.requests.append(request)
        service = request.url.host.removesuffix(".test")
        if service in SERVICES:
            _check_it_is_known(service, request)
        place = f"{request.url.host.removesuffix('.test')}{request.url.raw_path.decode().partition('?')[0]}"
        known = self.answers.get((request.method, place))
        assert known is not None, f"nobody expected {request.method} {place}"
        answer = known.pop(0) if len(known) > 1 else known[0]
        return answer(request) if callable(answer) else answer

    @property
    def body(self) -> Any:
        """The JSON of the last request."""
        return json.loads(self.requests[-1].content)


def _check_it_is_known(service: str, request: httpx.Request) -> None:
    """A request must be one that the service's OpenAPI document knows: its route, its query, its body."""
    path = request.url.raw_path.decode().partition("?")[0]
    known = route(service, request.method.lower(), path)
    assert known is not None, f"{service} has no {request.method} {path}"
    parameters = {one["name"] for one in known.get("parameters", ()) if one["in"] == "query"}
    assert set(request.url.params) <= parameters, f"{path} knows {parameters}, not {set(request.url.params)}"
    if "requestBody" in known:
        schema = known["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate(json.loads(request.content), {**schema, "components": document(service)["components"]})


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of its own that knows all services; somebody is signed in by the environment."""
    folder = tmp_path / "config"
    monkeypatch.setenv("AIFN_CONFIG_HOME", str(folder))
    monkeypatch.setenv("AIFN_TOKEN", jwt(sub="mari"))
    monkeypatch.setenv("TZ", "UTC")
    for name in ("AIFN_ISSUER", *(f"AIFN_URL_{service.upper()}" for service in SERVICES)):
        monkeypatch.delenv(name, raising=False)
    addresses = {service: f"http://{service}.test" for service in SERVICES}
    Context(factory="lumi-aif", issuer=ISSUER, services=addresses).save()
    return folder


@pytest.fixture
def aifn(services: Services, home: Path) -> Callable[..., Result]:
    """Run the command line, e.g. `aifn("machine", "list", width=120)`."""

    def run(*words: str, width: int = 80, stdin: str | None = None) -> Result:
        transport = httpx.MockTransport(services)
        env = {"COLUMNS": str(width), "NO_COLOR": "1", "TERM": "dumb"}
        result = CliRunner().invoke(app, list(words), obj=transport, env=env, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
