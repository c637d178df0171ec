"""ColdFront beside accounting: how fast one allocation's balance is read over HTTP, each as it is deployed.

Both keep as many allocations in the same PostgreSQL server, run two processes and answer the members of projects, who
show a token. ColdFront: its REST plugin under gunicorn, an allocation with its attributes and their use; its tokens are
looked up in its database, ours are signed. Its lists have no pages, so of a list only the detail is compared. It lives
in a virtual environment of its own; where it cannot be installed, it is left out and that is said.
"""

import os
import subprocess
import sys
import urllib.parse
from pathlib import Path

import uvloop
from aifn_common.database import connect
from aifn_local.processes import free_port
from aifn_local.stack_state import StackState

from benchmarks.accounting import load, reads
from benchmarks.accounting.programs import api, issuer, program
from benchmarks.figures import Figure, compare

ALLOCATIONS = int(os.environ.get("AIFN_BENCH_PEER_ALLOCATIONS", "2000"))
REQUESTS = int(os.environ.get("AIFN_BENCH_PEER_REQUESTS", "2000"))
CONNECTIONS = 8
VERSION = "1.1.10"
HOME = Path("build/bench/coldfront")
INSTALL_SECONDS = 600

_SEED = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "coldfront.config.settings"
import django
django.setup()
from datetime import date
from django.contrib.auth.models import User
from rest_framework.authtoken.models import Token
from coldfront.core.allocation.models import (
    Allocation, AllocationAttribute, AllocationAttributeType, AllocationAttributeUsage, AllocationStatusChoice,
)
from coldfront.core.field_of_science.models import FieldOfScience
from coldfront.core.project.models import Project, ProjectStatusChoice
from coldfront.core.resource.models import Resource
active = ProjectStatusChoice.objects.get(name="Active")
live = AllocationStatusChoice.objects.get(name="Active")
hours = AllocationAttributeType.objects.filter(name="Core Usage (Hours)").first()
field = FieldOfScience.objects.first()
resource = Resource.objects.first()
for number in range(int(sys.argv[1]) // 2):
    user = User.objects.create(username=f"person{number}")
    token = Token.objects.create(user=user)
    project = Project.objects.create(title=f"q{number}", pi=user, status=active, field_of_science=field)
    for _ in range(2):
        one = Allocation.objects.create(project=project, status=live, start_date=date(2026, 1, 1))
        if resource is not None:
            one.resources.add(resource)
        attribute = AllocationAttribute.objects.create(allocation=one, allocation_attribute_type=hours, value="1000000")
        AllocationAttributeUsage.objects.update_or_create(allocation_attribute=attribute, defaults={"value": 1000.0})
    print(token.key, one.pk)
"""


def measure(state: StackState) -> list[Figure]:
    """Answers a second of both; nothing if the peer cannot be had here."""
    why = _install()
    if why is not None:
        print(f"peer: ColdFront {VERSION} is left out, it cannot be installed here: {why}")
        return []
    theirs = _coldfront(state)
    ours = _accounting(state)
    for name, taken in (("ColdFront", theirs), ("accounting", ours)):
        print(
            f"peer: {name}: {taken.rate:,.0f} answers/s of one balance, p50 {taken.at(50):.1f} ms, p99"
            f" {taken.at(99):.1f} ms; {ALLOCATIONS:,} allocations, two processes, {CONNECTIONS} connections"
        )
    return [compare("balance of a project, beside a peer", ours.rate, "requests/s", "ColdFront", theirs.rate)]


def _python() -> Path:
    return HOME.absolute() / "venv" / "bin" / "python"


def _install() -> str | None:
    """Have the peer in its own environment; returns why that is not possible."""
    if (_python().with_name("coldfront")).exists():
        return None
    wanted = [f"coldfront=={VERSION}", "gunicorn", "psycopg2-binary"]
    for words in (
        [sys.executable, "-m", "venv", str(HOME / "venv")],
        [str(_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
    ):
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as wrong:
            return str(wrong)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}"
    return None


def _coldfront(state: StackState) -> load.Taken:
    uvloop.run(_make_database(state.postgres_url))
    environment = {
        "DB_URL": urllib.parse.urlunsplit(
            urllib.parse.urlsplit(state.postgres_url)._replace(scheme="postgres", path="/bench_peer")
        ),
        "PLUGIN_API": "True",
        "DEBUG": "False",
        "SECRET_KEY": "for the benchmark only",
        "DJANGO_SETTINGS_MODULE": "coldfront.config.settings",
    }
    run = {"env": os.environ | environment, "cwd": HOME, "check": True, "capture_output": True, "text": True}
    coldfront = str(_python().with_name("coldfront"))
    subprocess.run([coldfront, "initial_setup", "-f"], **run)  # type: ignore[call-overload]
    seeded = subprocess.run([str(_python()), "-c", _SEED, str(ALLOCATIONS)], **run)  # type: ignore[call-overload]
    people = [line.split() for line in seeded.stdout.splitlines() if len(line.split()) == 2]
    port = free_port(None)
    words = [
        str(_python().with_name("gunicorn")), "--workers", "2", "--keep-alive", "60", "--worker-class", "gthread",
        "--threads", "4", "--bind", f"127.0.0.1:{port}", "coldfront.config.wsgi",
    ]  # fmt: skip
    asked = [
        load.get(port, f"/api/allocations/{pk}/?allocation_attributes=true", token, scheme="Token")
        for token, pk in people
    ]
    with program(words, name="coldfront", probe="/api/api-auth/login/", environment=environment, port=port):
        uvloop.run(load.ask(port, asked[:200], connections=CONNECTIONS))
        return uvloop.run(load.ask(port, _as_many(asked), connections=CONNECTIONS))


def _accounting(state: StackState) -> load.Taken:
    url = uvloop.run(reads.prepare(state.postgres_url, ALLOCATIONS))
    with issuer() as login:
        environment = {
            "AIFN_DATABASE_URL": url,
            "AIFN_KAFKA": state.kafka_bootstrap,
            "AIFN_OIDC_ISSUER": f"http://127.0.0.1:{login.port}",
        }
        with api(0, environment) as one, api(1, environment) as two:
            people = [f"person-q{number}" for number in range(min(500, ALLOCATIONS // 2))]
            tokens = {person: reads.token(login, "newcomer", person) for person in people}
            ports = [one.port, two.port]
            asked = [_as_many(reads.balances(port, tokens))[: REQUESTS // 2] for port in ports]
            uvloop.run(load.ask_each(ports, [some[:200] for some in asked], connections=CONNECTIONS // 2))
            return uvloop.run(load.ask_each(ports, asked, connections=CONNECTIONS // 2))


def _as_many(asked: list[bytes]) -> list[bytes]:
    return (asked * (REQUESTS // len(asked) + 1))[:REQUESTS]


async def _make_database(postgres: str) -> None:
    admin = await connect(postgres, connections=2)
    await admin.execute("CREATE DATABASE bench_peer")
    await admin.close()
