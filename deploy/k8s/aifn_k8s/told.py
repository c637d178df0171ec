"""Whether every service is told what it must know: by its manifest, by a default, and in the documents."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from aifn_common.settings import ServiceSettings
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from aifn_k8s.pods import Pod, pods
from aifn_k8s.render import Rendered

PREFIX = "AIFN_"


def untold(rendered: Iterable[Rendered], settings: Mapping[str, type[ServiceSettings]], documents: str) -> list[str]:
    """One line for each setting that is missing, unknown, wrong, or not written down.

    Args:
        settings: by service, what it reads.
        documents: docs/configuration.md.
    """
    lines = [f"docs: {problem}" for problem in _undocumented(settings, documents)]
    for one in rendered:
        for pod in pods(one.objects):
            kind = settings.get(pod.service) if pod.is_ours else None
            if kind is not None:
                lines += [f"{one.name}: {pod.title}: {problem}" for problem in _problems(pod, kind)]
            elif pod.is_ours:
                lines.append(f"{one.name}: {pod.title}: nobody knows the settings of {pod.service}")
    return list(dict.fromkeys(lines))


def _problems(pod: Pod, kind: type[ServiceSettings]) -> list[str]:
    found = []
    for _, container in pod.containers:
        given = {name: value for name, value in pod.environment(container).items() if name.startswith(PREFIX)}
        known = {variable for name, field in kind.model_fields.items() for variable in _variables(name, field)}
        found += [f"{name} is a setting of nobody" for name in sorted(given.keys() - known)]
        for name, field in kind.model_fields.items():
            if field.is_required() and not given.keys() & set(_variables(name, field)):
                found.append(f"{PREFIX}{name.upper()} is not set, and has no default")
        mounted = [str(one["mountPath"]) for one in container.get("volumeMounts", [])]
        for name, value in sorted(given.items()):
            if value.startswith("/") and not any(value.startswith(f"{path}/") or value == path for path in mounted):
                found.append(f"{name} names {value}, and nothing is mounted there")
        found += _refused(kind, given)
    return found


def _refused(kind: type[ServiceSettings], given: Mapping[str, str]) -> list[str]:
    """What the service itself would say to these values; files are on its own disk, so they are left out."""
    values: dict[str, object] = {}
    for name, field in kind.model_fields.items():
        value = given.get(f"{PREFIX}{name.upper()}")
        if field.is_required() and (value is None or value.startswith("/")):
            values[name] = "postgresql://x@y/z" if "database" in name else "x" * 64
        elif value is not None and not value.startswith("/"):
            values[name] = value
    try:
        kind.model_validate(values, strict=False)
    except ValidationError as wrong:
        return [
            f"{PREFIX}{'_'.join(str(part) for part in one['loc']).upper()} is wrong: {one['msg']}"
            for one in wrong.errors(include_url=False, include_input=False)
            # What the environment has as JSON is read before it comes here.
            if one["type"] != "dict_type"
        ]
    return []


def _variables(name: str, field: FieldInfo) -> list[str]:
    variable = f"{PREFIX}{name.upper()}"
    secret = field.annotation is SecretStr or field.annotation == (SecretStr | None)
    return [variable, *([f"{variable}_FILE"] if secret else [])]


def _undocumented(settings: Mapping[str, type[ServiceSettings]], documents: str) -> list[str]:
    names = {f"{PREFIX}{name.upper()}" for kind in settings.values() for name in kind.model_fields}
    return [f"{name} is not in docs/configuration.md" for name in sorted(names) if f"`{name}`" not in documents]


def read_documents(repository: Path) -> str:
    """docs/configuration.md."""
    return (repository / "docs" / "configuration.md").read_text(encoding="utf-8")
