"""The operators' own schemas: where each comes from, and how it is cut down to what validation reads."""

import json
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from aifn_local.errors import StackError

from aifn_k8s.yaml_text import from_yaml


@dataclass(frozen=True)
class Source:
    """A Go module of an operator and the schemas in it, as paths inside the module."""

    module: str
    version: str
    licence: str
    paths: tuple[str, ...]


def sources() -> tuple[Source, ...]:
    """Those schemas that lie in a Go module; README.md beside them says how the others were made."""
    text = files("aifn_k8s").joinpath("schema-sources.toml").read_text(encoding="utf-8")
    return tuple(
        Source(one["module"], one["version"], one["licence"], tuple(one["paths"]))
        for one in tomllib.loads(text)["source"]
    )


def fetch(source: Source) -> Path:
    """The folder of a module. Raises StackError, when there is no Go or the module cannot be had."""
    command = ["go", "mod", "download", "-json", f"{source.module}@{source.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    except FileNotFoundError:
        raise StackError(
            "schemas are read from Go modules, and there is no go here: install Go 1.25 or newer"
        ) from None
    answer = json.loads(done.stdout or "{}")
    if "Dir" not in answer:
        raise StackError(f"{source.module}@{source.version} cannot be had: {answer.get('Error', done.stderr).strip()}")
    return Path(answer["Dir"])


def write(folder: Path, crds: Mapping[str, str]) -> list[str]:
    """Keep schemas, given as name and YAML text, in `folder`; returns the names of the files."""
    written = []
    for text in crds.values():
        for crd in from_yaml(text):
            if crd.get("kind") != "CustomResourceDefinition":
                continue
            name = f"{crd['spec']['group']}_{crd['spec']['names']['plural']}.yaml"
            # JSON is YAML too; without words and in one line it is a tenth of the size.
            (folder / name).write_text(json.dumps(slim(crd), separators=(",", ":"), sort_keys=True) + "\n")
            written.append(name)
    return sorted(written)


def slim(crd: dict[str, Any]) -> dict[str, Any]:
    """A schema without what only people read, and without versions that are no longer served."""
    spec = crd["spec"]
    versions = [_bare(one) for one in spec["versions"] if one["served"]]
    return {
        "apiVersion": crd["apiVersion"],
        "kind": crd["kind"],
        "metadata": {"name": crd["metadata"]["name"]},
        "spec": {"group": spec["group"], "names": spec["names"], "scope": spec["scope"], "versions": versions},
    }


def _bare(node: Any, *, names: bool = False) -> Any:
    """`names`: the keys of this mapping are names of fields, which may well be `description`."""
    if isinstance(node, list):
        return [_bare(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _bare(value, names=key == "properties" and not names)
        for key, value in node.items()
        if names or key not in ("description", "example", "externalDocs", "additionalPrinterColumns")
    }


def kinds(folder: Path) -> set[tuple[str, str]]:
    """(group, kind) of every schema that is kept."""
    found = set()
    for path in folder.glob("*.yaml"):
        spec = json.loads(path.read_text(encoding="utf-8"))["spec"]
        found.add((str(spec["group"]), str(spec["names"]["kind"])))
    return found
