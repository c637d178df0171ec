"""What is inside an image, as CycloneDX 1.5: our packages as uv.lock has them, and Debian's as the base has them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aifn_images.tools import run
from aifn_images.wheels import UV


def python_part(distribution: str) -> dict[str, Any]:
    """The bill of materials that uv writes for one of our packages."""
    text = run([UV, "export", "--quiet", "--frozen", "--no-dev", "--format", "cyclonedx1.5", "--package", distribution])
    found: dict[str, Any] = json.loads(text)
    return found


def debian_component(control: str) -> dict[str, Any]:
    """A Debian package by its control fields.

    >>> debian_component("Package: zlib1g\\nVersion: 1:1.2.13\\nArchitecture: amd64\\n")["purl"]
    'pkg:deb/debian/zlib1g@1%3A1.2.13?arch=amd64'
    """
    fields = dict(line.split(": ", 1) for line in control.splitlines() if ": " in line and not line.startswith(" "))
    version = fields["Version"].replace(":", "%3A").replace("+", "%2B")
    purl = f"pkg:deb/debian/{fields['Package']}@{version}?arch={fields['Architecture']}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": fields["Package"],
        "version": fields["Version"],
        "purl": purl,
    }


def bill(subject: str, version: str, parts: Iterable[dict[str, Any]], python: dict[str, Any] | None) -> dict[str, Any]:
    """One bill for an image; `python` is what uv wrote, whose dependency graph is kept."""
    whole = python or {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {}}
    metadata = {**whole["metadata"], "component": {"type": "container", "bom-ref": subject, "name": subject,
                                                   "version": version}}  # fmt: skip
    graph = list(whole.get("dependencies", []))
    inner = whole["metadata"].get("component")
    own = [inner] if inner else []
    components = [*own, *whole.get("components", []), *parts]
    graph.append({"ref": subject, "dependsOn": sorted(one["bom-ref"] for one in components)})
    return {**whole, "metadata": metadata, "components": components, "dependencies": graph}


def write(path: Path, found: dict[str, Any]) -> None:
    """Write a bill as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
