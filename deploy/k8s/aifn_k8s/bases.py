"""The base of each service: its workloads from templates, its settings, the rooms they need in database and broker."""

from importlib.resources import files
from string import Template
from typing import Any

from aifn_k8s import broker
from aifn_k8s.workloads import GATE, MACHINE_SERVICE, Workload, workloads
from aifn_k8s.yaml_text import GENERATED, Inline, to_yaml

SECRETS = "/run/secrets/aifn"
DATABASE_HOST = "postgres-rw:5432"
WORKER_REPLICAS = {"scheduler": 2, "accounting": 2, "registry": 2, "datalab": 2, "skills": 2, "siteagent": 1}
WORKER_MEMORY = {"accounting": "512Mi", "scheduler": "768Mi"}
WORKER_CPU = {"accounting": "500m", "scheduler": "500m"}
OWN_SECRETS = {"accounting": {"AIFN_PSEUDONYM_KEY_FILE": "pseudonym-key"}, GATE: {"AIFN_FED_KEY": "online.key.json"}}
"""Settings of a service that come from the Secret `<service>-own`, and the file each has there."""

_OWN_MOUNT = "\n            - {name: own, mountPath: /run/secrets/aifn/own, readOnly: true}"
_OWN_VOLUME = "\n        - name: own\n          secret: {secretName: %s-own, defaultMode: 0440}"


def database_url(role: str, *, host: str = DATABASE_HOST) -> str:
    """A service's address of its database: no password in it, the certificate says who comes."""
    files_of = f"{SECRETS}/database"
    tls = f"sslmode=verify-full&sslrootcert={files_of}/ca.crt&sslcert={files_of}/tls.crt&sslkey={files_of}/tls.key"
    return f"postgresql://{role}@{host}/{role}?{tls}"


def bases() -> dict[str, str]:
    """Path below deploy/k8s and text of every file of every base."""
    found: dict[str, str] = {}
    for workload in workloads():
        found |= _service_base(workload)
    found |= _gate_base()
    found["platform/topics/topics.yaml"] = to_yaml(broker.topics())
    found["platform/users/users.yaml"] = to_yaml(broker.users())
    names = [one.name for one in workloads() if one.name != MACHINE_SERVICE]
    found["platform/postgres/databases.yaml"] = to_yaml([doc for name in (*names, GATE) for doc in database(name)])
    machine = [broker.user(MACHINE_SERVICE, broker.rights(MACHINE_SERVICE)), *database(MACHINE_SERVICE)]
    found["platform/machine/machine.yaml"] = to_yaml(machine)
    return found


def _service_base(workload: Workload) -> dict[str, str]:
    own = OWN_SECRETS.get(workload.name, {})
    words = {
        "service": workload.name,
        "worker_replicas": str(WORKER_REPLICAS[workload.name]),
        "worker_memory": WORKER_MEMORY.get(workload.name, "384Mi"),
        "worker_cpu": WORKER_CPU.get(workload.name, "100m"),
        "own_mounts": _OWN_MOUNT if own else "",
        "own_volumes": _OWN_VOLUME % workload.name if own else "",
    }
    roles = [*(["api"] if workload.has_api else []), "worker", "migrate", "account"]
    settings = {"AIFN_DATABASE_URL": database_url(workload.name)}
    settings |= {name: f"{SECRETS}/own/{file}" for name, file in own.items()}
    return _folder(workload.name, roles, words, settings)


def _gate_base() -> dict[str, str]:
    words = {"service": GATE, "own_mounts": _OWN_MOUNT, "own_volumes": _OWN_VOLUME % GATE}
    words["own_mounts"] += "\n            - {name: directory, mountPath: /etc/aifn/federation, readOnly: true}"
    words["own_volumes"] += "\n        - name: directory\n          configMap: {name: federation-directory}"
    settings = {
        "AIFN_DATABASE_URL": database_url(GATE),
        "AIFN_FED_KEY": f"{SECRETS}/own/online.key.json",
        "AIFN_FED_DIRECTORY": "/etc/aifn/federation",
        "AIFN_FED_RELAYS": ",".join(broker.RELAYS),
    }
    return _folder(GATE, [GATE, "migrate", "account"], words, settings)


def _folder(name: str, parts: list[str], words: dict[str, str], settings: dict[str, str]) -> dict[str, str]:
    found = {f"base/{name}/{part}.yaml": GENERATED + template(part).substitute(words) for part in parts}
    literals = [f"{key}={value}" for key, value in settings.items()]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{part}.yaml" for part in parts],
        "configMapGenerator": [{"name": name, "literals": literals}],
    }
    return found | {f"base/{name}/kustomization.yaml": to_yaml([kustomization])}


def template(part: str) -> Template:
    """One of the templates that come with this package."""
    return Template(files("aifn_k8s").joinpath("templates", f"{part}.yaml").read_text(encoding="utf-8"))


def database(name: str) -> list[dict[str, Any]]:
    """A role that may log in with its certificate only, and a database that is its own."""
    cluster = Inline({"name": "postgres"})
    role = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "DatabaseRole",
        "metadata": {"name": name},
        "spec": {
            "cluster": cluster,
            "name": name,
            "login": True,
            "disablePassword": True,
            "clientCertificate": Inline({"enabled": True}),
            "connectionLimit": 60,
            "databaseRoleReclaimPolicy": "retain",
        },
    }
    own = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Database",
        "metadata": {"name": name},
        "spec": {
            "cluster": cluster,
            "name": name,
            "owner": name,
            "encoding": "UTF8",
            "localeProvider": "builtin",
            "builtinLocale": "C.UTF-8",
            "databaseReclaimPolicy": "retain",
        },
    }
    return [role, own]
