"""One overlay for each member of the network, and two to copy for a new one: small, since a profile says the rest."""

from aifn_k8s import broker
from aifn_k8s.bases import database_url, template
from aifn_k8s.members import DOMAIN, Member, members
from aifn_k8s.workloads import MACHINE_SERVICE
from aifn_k8s.yaml_text import GENERATED, to_yaml

TEMPLATES = (
    Member("template-factory", "a factory to copy", machines=("your-machine",)),
    Member("template-antenna", "an antenna to copy", links=("its-factory",)),
)
CLUSTER_API = "192.0.2.1/32"
OBJECT_STORE_ADDRESS = "192.0.2.2/32"
"""Both of the block that documents may use (RFC 5737): a site puts its own into `site`."""


def overlays() -> dict[str, str]:
    """Path below deploy/k8s and text of every file of the overlays: members, templates, relays."""
    found: dict[str, str] = {}
    for member in (*members(), *TEMPLATES):
        folder = f"overlays/{member.name}"
        found[f"{folder}/kustomization.yaml"] = _overlay(member)
        found[f"{folder}/site/kustomization.yaml"] = _site(member)
        for machine in member.machines:
            found[f"{folder}/agent-{machine}/kustomization.yaml"] = _agent(machine)
    factories = [member.name for member in members() if member.is_factory]
    found["platform/relay/users.yaml"] = to_yaml(broker.relay_users(factories))
    for relay in broker.RELAYS:
        found[f"overlays/{relay}/kustomization.yaml"] = GENERATED + template("relay").substitute(
            relay=relay, domain=DOMAIN
        )
    return found


def _overlay(member: Member) -> str:
    profile = "factory" if member.is_factory else "antenna"
    said = f"# {member.title}" + (f", linked with {', '.join(member.links)}" if member.links else "") + "\n"
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": f"aifn-{member.name}",
        "resources": [f"../../profiles/{profile}", "site", *(f"agent-{machine}" for machine in member.machines)],
        "components": ["../../components/site", *(["../../components/site-mirror"] if member.is_factory else [])],
    }
    return to_yaml([kustomization], head=GENERATED + said)


def _site(member: Member) -> str:
    """What is this member's own; the one file a site edits."""
    values = {
        "domain": member.domain,
        "member": member.name,
        "others": rf"(?!{member.name}\.)[a-z0-9-]+\.aifn-out-.*",
        **{relay: f"{relay}.{DOMAIN}:443" for relay in broker.RELAYS},
        "cluster-api": CLUSTER_API,
        "object-store": f"https://objects.{member.domain}",
        "object-store-address": OBJECT_STORE_ADDRESS,
    }
    if not member.is_factory:
        values = {name: value for name, value in values.items() if name not in (*broker.RELAYS, "others")}
    site = [f"AIFN_FACTORY={member.name}", f"AIFN_OIDC_ISSUER=https://login.{member.domain}/realms/aif"]
    generators: list[dict[str, object]] = [
        {"name": "site", "literals": site},
        {
            "name": "site-values",
            "literals": [f"{name}={value}" for name, value in values.items()],
            # Read by components/site while rendering, and not sent to the cluster.
            "options": {"disableNameSuffixHash": True, "annotations": {"config.kubernetes.io/local-config": "true"}},
        },
    ]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "configMapGenerator": generators,
    }
    head = GENERATED if member not in TEMPLATES else "# Put your own values here; nothing else need change.\n"
    return to_yaml([kustomization], head=head)


def _agent(machine: str) -> str:
    """The base of the site agent, under the name of one machine."""
    name = f"{MACHINE_SERVICE}-{machine}"
    last = len(broker.rights(MACHINE_SERVICE)) - 1
    words = {"machine": machine, "name": name, "database_url": database_url(name), "last": str(last)}
    return GENERATED + template("agent").substitute(words)
