"""YAML as we write it: keys in the order given, short lists on one line, a first line that says where it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Document = Mapping[str, Any]
GENERATED = "# Made by `aifn k8s generate`: a change made here is overwritten.\n"


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as people do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


class Inline(dict[str, Any]):
    """A mapping that is written on one line."""


_Dumper.add_representer(
    Inline, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True)
)


def to_yaml(documents: Sequence[Document], *, head: str = GENERATED) -> str:
    """Some documents as one file."""
    texts = [yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=118) for document in documents]
    return head + "---\n".join(texts)


def from_yaml(text: str) -> list[dict[str, Any]]:
    """The documents of a file; empty ones are left out. Raises yaml.YAMLError."""
    return [found for found in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if found]
