"""What an image promises by itself: who runs in it, what is in it, how it begins, and how it refuses to."""

import asyncio
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from aifn_images import wheels
from aifn_images.__main__ import MOST_BYTES, programs
from aifn_images.tools import BUILD

from benchmarks.startup import READY_TARGET_SECONDS
from tests.containers.conftest import Told
from tests.containers.world import SERVICES, World, image_of
from tests.support.engine import docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

INSIDE = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
COMPLETE = {
    "AIFN_FACTORY": "lumi-aif",
    "AIFN_DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:1/none",
    "AIFN_KAFKA": "127.0.0.1:1",
    "AIFN_PSEUDONYM_KEY": "a-long-random-secret",
    "AIFN_MACHINE": "lumi",
}
SLIM_BASE = {"pip", "setuptools", "wheel"}


def inspected(image: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker("image", "inspect", image) or "[]")
    return found[0]


def run(image: str, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a container to its end, confined as the tests' services are."""
    confined = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"]
    told = [part for name, value in settings.items() for part in ("--env", f"{name}={value}")]
    return subprocess.run(
        ["docker", "run", "--rm", *confined, *told, image, *command],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def inside(images: None) -> dict[str, dict[str, Any]]:
    """What every service's container says of itself."""
    found = {}
    for service in SERVICES:
        words = docker("run", "--rm", "--read-only", "--network=none", "--entrypoint=python3", image_of(service),
                       "-c", INSIDE)  # fmt: skip
        assert words is not None
        found[service] = json.loads(words)
    return found


def test_every_image_runs_as_nobody_in_particular_and_finds_no_tools_and_nothing_to_write(
    inside: dict[str, dict[str, Any]],
) -> None:
    for service, found in inside.items():
        about = {name: found[name] for name in ("user", "group", "tools", "writable")}
        assert about == {"user": 10001, "group": 10001, "tools": [], "writable": []}, service


def test_what_is_installed_is_what_the_lock_says_and_nothing_else(inside: dict[str, dict[str, Any]]) -> None:
    for service, package in programs().items():
        if service not in inside:
            continue
        target = wheels.Target(inside[service]["python"], inside[service]["machine"])
        wanted = {one.name: one.version for one in wheels.locked_for(package, target)}
        installed = {name: v for name, v in inside[service]["installed"].items() if name not in SLIM_BASE}
        own = {name for name in installed if name.startswith("aifn-")}
        assert {name: v for name, v in installed.items() if name not in own} == wanted
        assert own == set(wheels.own_packages(package))
        assert "aifn-local" not in own, "the development issuer is in no image"


def test_every_image_is_small_and_says_what_it_is(images: None) -> None:
    for service in SERVICES:
        found = inspected(image_of(service))
        labels = found["Config"]["Labels"]
        assert found["Size"] <= MOST_BYTES
        assert labels["org.opencontainers.image.title"] == f"aifn-{service}"
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert len(labels["org.opencontainers.image.revision"]) == 40
        assert labels["org.opencontainers.image.version"]
        assert found["Config"]["User"] == "10001:10001"


def test_services_share_the_layers_of_what_they_have_in_common(images: None) -> None:
    layers = [inspected(image_of(service))["RootFS"]["Layers"] for service in SERVICES]
    shared = set(layers[0]).intersection(*layers[1:])
    assert all(len(set(own) - shared) == 1 for own in layers), "only a service's own wheels are a layer of its own"


def test_a_bill_of_materials_lies_beside_each_image_and_names_every_package(inside: dict[str, dict[str, Any]]) -> None:
    for service in SERVICES:
        path = BUILD / f"{service}.cdx.json"
        if not path.exists():
            pytest.skip("these images were not built here")
        bill = json.loads(path.read_text(encoding="utf-8"))
        assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
        named = {one["name"] for one in bill["components"]}
        assert set(inside[service]["installed"]) - SLIM_BASE <= named
        assert "libc6" in named, "what the base image brings is part of the bill"


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_that_is_told_nothing_ends_with_one_line_that_names_the_variable(
    images: None, service: str
) -> None:
    ended = run(image_of(service), "worker")
    assert ended.returncode == 78
    assert ended.stderr == f"aifn-{service}: AIFN_FACTORY is not set, for example AIFN_FACTORY=lumi-aif\n"
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("variable", "wrong"),
    [
        ("AIFN_DATABASE_URL", "mysql://db/accounting"),
        ("AIFN_PORT", "eighty"),
        ("AIFN_PSEUDONYM_KEY", "short"),
        ("AIFN_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_setting_ends_a_container_with_one_line_that_names_it_and_shows_how(
    images: None, variable: str, wrong: str
) -> None:
    ended = run(image_of("accounting"), "api", **(COMPLETE | {variable: wrong}))
    assert ended.returncode == 78
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"aifn-accounting: {variable} is wrong: ")
    assert f"for example {variable}=" in ended.stderr


def test_a_role_that_does_not_exist_is_answered_with_those_that_do(images: None) -> None:
    ended = run(image_of("siteagent"), "api")
    assert (ended.returncode, ended.stderr) == (64, "usage: aifn-siteagent worker|migrate\n")


async def test_a_service_is_ready_soon_after_its_container_starts(world: World, figure: Told) -> None:
    for name in ("registry-api", "accounting-worker"):
        box = world.box(world.program(name), AIFN_INSTANCE="")
        port = box.on_loopback(8000)
        began = time.monotonic()
        await asyncio.to_thread(box.start)
        try:
            status = 0
            while status != 200:
                try:
                    status = (await world.http.get(f"http://127.0.0.1:{port}/readyz")).status_code
                except httpx.TransportError:
                    status = 0
                assert time.monotonic() < began + 60, box.words()[-2000:]
                await asyncio.sleep(0.02)
            figure(f"{name} ready after its container was asked for", time.monotonic() - began, READY_TARGET_SECONDS)
            assert "Traceback" not in box.words()
        finally:
            await asyncio.to_thread(box.stop)
