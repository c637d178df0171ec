"""Holds rendered objects against the schemas of Kubernetes and of the operators, by the API server's own code."""

import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aifn_local.errors import StackError

from aifn_k8s.render import Rendered
from aifn_k8s.yaml_text import Document

KUBERNETES = "1.30"
"""The oldest version we promise to run on: a field that is newer is unknown to it."""
_SECONDS = 600


def problems(rendered: Sequence[Rendered], program: Path, schemas: Path) -> list[str]:
    """One line for each thing the API server would refuse: unknown kinds and fields, wrong types, broken rules.

    Objects that are the same in several overlays are looked at once: members differ in a few of them.
    Raises: StackError, when the validator itself fails.
    """
    if not rendered:
        return []
    with tempfile.TemporaryDirectory(prefix="aifn-k8s-") as temporary:
        wanted: dict[str, list[tuple[str, Document]]] = {}
        seen: set[str] = set()
        for one in rendered:
            texts = {text: each for each in one.objects if (text := json.dumps(each, default=str)) not in seen}
            seen |= texts.keys()
            if texts:
                path = Path(temporary) / f"{one.name}.yaml"
                # JSON is YAML too, and quicker to write.
                path.write_text("\n---\n".join(texts), encoding="utf-8")
                wanted[str(path)] = [(one.name, each) for each in texts.values()]
        return _run(program, schemas, wanted)


def _run(program: Path, schemas: Path, wanted: dict[str, list[tuple[str, Document]]]) -> list[str]:
    done = subprocess.run(
        [str(program), "--version", KUBERNETES, "--local-crds", str(schemas), "--output", "json", *wanted],
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    try:
        verdicts: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    except ValueError:
        raise StackError(f"the validator gave no verdict: {' '.join(done.stderr.split())[:500]}") from None
    found = []
    for path, documents in wanted.items():
        said = verdicts.get(path, [])
        if len(said) != len(documents):
            raise StackError(
                f"the validator looked at {len(said)} of the {len(documents)} objects of {Path(path).stem}"
            )
        for (overlay, document), verdict in zip(documents, said, strict=True):
            found += [f"{overlay}: {title(document)}: {reason}" for reason in _reasons(verdict)]
    return found


def _reasons(verdict: dict[str, Any]) -> Iterable[str]:
    if verdict.get("status") == "Success":
        return []
    causes = verdict.get("details", {}).get("causes") or []
    named = [f"{cause.get('field', '')}: {cause.get('message', '')}" for cause in causes]
    return named or [" ".join(str(verdict.get("message", "refused without a reason")).split())]


def title(document: Document) -> str:
    """How an object is called in messages."""
    return f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"
