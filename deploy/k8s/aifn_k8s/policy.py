"""What we ask of every pod and object beyond what the API server asks: the restricted profile, bounds, no secrets."""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aifn_k8s.pods import Pod, pods
from aifn_k8s.render import Rendered
from aifn_k8s.validation import title

OUR_UID = 10001
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
"""Those that the restricted profile allows."""
_SECRET_NAME = re.compile(r"(PASSWORD|SECRET|TOKEN|KEY)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"://[^/@\s:]+:[^/@\s]+@|-----BEGIN [A-Z ]*PRIVATE KEY")


@dataclass(frozen=True)
class Breach:
    """Something that is not as it should be: in which overlay, of which rule, by which object, in words."""

    overlay: str
    rule: str
    object: str
    words: str

    def __str__(self) -> str:
        return f"{self.overlay}: {self.object}: {self.words} ({self.rule})"


@dataclass(frozen=True)
class Waiver:
    """A breach that is wanted, and why."""

    overlay: str
    rule: str
    object: str
    why: str

    def covers(self, breach: Breach) -> bool:
        """Whether this is the breach that was meant."""
        return (self.overlay, self.rule, self.object) == (breach.overlay, breach.rule, breach.object)


def waivers(path: Path) -> list[Waiver]:
    """Read policy/waivers.toml. Raises TypeError, if one lacks its reason or says more than it should."""
    return [Waiver(**one) for one in tomllib.loads(path.read_text(encoding="utf-8")).get("waiver", [])]


def breaches(rendered: Iterable[Rendered], waived: Iterable[Waiver]) -> list[str]:
    """One line for each breach that nobody waived, and for each waiver that nobody needs."""
    found = [breach for one in rendered for breach in _of(one)]
    listed = list(waived)
    lines = [str(breach) for breach in found if not any(waiver.covers(breach) for waiver in listed)]
    idle = [waiver for waiver in listed if not any(waiver.covers(breach) for breach in found)]
    return lines + [f"waiver for {one.object} in {one.overlay} ({one.rule}): nothing needs it any more" for one in idle]


def _of(rendered: Rendered) -> Iterator[Breach]:
    for pod in pods(rendered.objects):
        for rule, check in POD_RULES.items():
            for words in check(pod):
                yield Breach(rendered.name, rule, pod.title, words)
    for each in rendered.objects:
        for words in _in_clear(each):
            yield Breach(rendered.name, "no-secret-in-clear", title(each), words)
        if each["kind"] == "Namespace":
            enforced = each["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
            if enforced != "restricted":
                yield Breach(
                    rendered.name, "restricted-namespace", title(each), f"its pods may be {enforced or 'anything'}"
                )


def _non_root(pod: Pod) -> Iterator[str]:
    for name, container in pod.containers:
        merged = {**pod.security, **container.get("securityContext", {})}
        if merged.get("runAsNonRoot") is not True:
            yield f"{name} may run as root"
        if merged.get("runAsUser") == 0:
            yield f"{name} runs as user 0"
        ours = str(container.get("image", "")).rpartition("/")[2].startswith("aifn-")
        if ours and merged.get("runAsUser") != OUR_UID:
            yield f"{name} runs as {merged.get('runAsUser')}, its image is made for {OUR_UID}"
        if merged.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name} may make any system call: no seccompProfile"


def _no_privilege(pod: Pod) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield f"{key} is set"
    for name, container in pod.containers:
        own = container.get("securityContext", {})
        if own.get("privileged"):
            yield f"{name} is privileged"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may gain privileges"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name} may write to its root file system"
        if "ALL" not in own.get("capabilities", {}).get("drop", []) or own.get("capabilities", {}).get("add"):
            yield f"{name} keeps capabilities"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name} takes a port of its host"
    for volume in pod.spec.get("volumes", []):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is a {kind}"


def _no_token(pod: Pod) -> Iterator[str]:
    if not pod.made_by_operator and pod.spec.get("automountServiceAccountToken") is not False:
        yield "it gets a token for the cluster's API"
    if not pod.made_by_operator and pod.spec.get("serviceAccountName", "default") == "default":
        yield "it runs under the namespace's default account"


def _bounds(pod: Pod) -> Iterator[str]:
    for name, container in pod.containers:
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if "memory" not in limits:
            yield f"{name} has no memory limit"
        elif requests.get("memory") != limits["memory"]:
            yield f"{name} is promised less memory than it may use"
        if "cpu" not in requests:
            yield f"{name} asks for no CPU"
        # A limit on CPU throttles in the middle of a batch and helps nobody; requests share the node fairly.
        if "cpu" in limits:
            yield f"{name} has a CPU limit"
    for volume in pod.spec.get("volumes", []):
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"volume {volume['name']} may grow without bound"


def _probes(pod: Pod) -> Iterator[str]:
    if pod.ends or pod.made_by_operator:
        return
    for name, container in pod.containers:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe not in container:
                yield f"{name} has no {probe}"
        live, ready = container.get("livenessProbe", {}), container.get("readinessProbe", {})
        if pod.is_ours and live.get("httpGet", {}).get("path") == ready.get("httpGet", {}).get("path"):
            yield f"{name} is restarted for what others lack: alive and ready are one question"


def _pinned(pod: Pod) -> Iterator[str]:
    for name, container in pod.containers:
        image = str(container.get("image", ""))
        if pod.made_by_operator and not image:
            continue
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"{name} runs {image or 'no image'}, whatever that is today"


def _drains(pod: Pod) -> Iterator[str]:
    if not pod.is_ours or pod.ends:
        return
    grace = pod.spec.get("terminationGracePeriodSeconds", 30)
    for name, container in pod.containers:
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        stop = float(pod.environment(container).get("AIFN_STOP_SECONDS", 50))
        if grace <= stop + pause:
            yield f"{name} is killed after {grace} s and may take {stop + pause:g} s to stop"


def _static_member(pod: Pod) -> Iterator[str]:
    if pod.kind != "StatefulSet" or not pod.is_ours:
        return
    for name, container in pod.containers:
        found = [one for one in container.get("env", []) if one["name"] == "AIFN_INSTANCE"]
        path = found[0].get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") if found else None
        if path != "metadata.name":
            yield f"{name} is a new member of its groups after every restart"
    if pod.service_name not in pod.services:
        yield f"there is no service {pod.service_name}"


def _protected(pod: Pod) -> Iterator[str]:
    if pod.is_ours and not pod.ends and not pod.budgets:
        yield "no PodDisruptionBudget covers it"


def _resolved(pod: Pod) -> Iterator[str]:
    yield from (f"ConfigMap {name} is not there" for name in sorted(pod.missing_config_maps))
    yield from (f"Secret {name} is made by nobody" for name in sorted(pod.missing_secrets))


POD_RULES: dict[str, Callable[[Pod], Iterator[str]]] = {
    "non-root": _non_root,
    "no-privilege": _no_privilege,
    "no-token": _no_token,
    "bounds": _bounds,
    "probes": _probes,
    "pinned-image": _pinned,
    "drains": _drains,
    "static-membership": _static_member,
    "disruption-budget": _protected,
    "references": _resolved,
}


def _in_clear(document: dict[str, Any]) -> Iterator[str]:
    if document["kind"] == "Secret" and (document.get("data") or document.get("stringData")):
        yield "a Secret lies in the repository"
    for place, name, value in _words(document, ()):
        path = ".".join(place)
        if _SECRET_VALUE.search(value) or (_SECRET_NAME.search(name) and not _is_reference(name, value)):
            yield f"{path} may hold a secret"


def _is_reference(name: str, value: str) -> bool:
    return value == "" or value.startswith("/") or not name.isupper()


def _words(node: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Every text in an object, with its place and the name it has: of its key, or of the variable it is given to."""
    if isinstance(node, dict):
        if isinstance(node.get("name"), str) and isinstance(node.get("value"), str):
            yield (*place, node["name"]), node["name"], node["value"]
        for key, value in node.items():
            yield from _words(value, (*place, str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _words(value, (*place, str(index)))
    elif isinstance(node, str) and place:
        yield place, place[-1], node
