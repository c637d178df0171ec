"""The one place that decides who may do what: roles are data, every route asks here."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from aifn_common.errors import Forbidden

Reach = str
REACHES: tuple[Reach, ...] = ("any", "own", "project", "factory", "call", "federation")


@dataclass(frozen=True)
class Grant:
    """A role given to a person: everywhere (`federation`), for one factory, project or call, or for what is theirs."""

    role: str
    kind: str
    of: str


@dataclass(frozen=True)
class Scope:
    """What a person may see of a list: everything, or what is of these projects, factories or calls, or is theirs."""

    everything: bool
    projects: frozenset[str]
    factories: frozenset[str]
    calls: frozenset[str]
    subject: str | None


@cache
def roles() -> Mapping[str, Mapping[Reach, frozenset[str]]]:
    """Roles by name: for each reach, the permissions it gives. Raises ValueError if the data names an unknown reach."""
    table = tomllib.loads(files("aifn_common").joinpath("roles.toml").read_text())
    found = {}
    for name, reaches in table.items():
        unknown = set(reaches) - set(REACHES)
        if unknown:
            raise ValueError(f"role {name} has an unknown reach {unknown}")
        found[name] = {reach: frozenset(permissions) for reach, permissions in reaches.items()}
    return found


@cache
def all_permissions() -> frozenset[str]:
    """Every permission that some role gives."""
    return frozenset().union(*(names for reaches in roles().values() for names in reaches.values()))


def grants_of(entitlements: Iterable[str]) -> frozenset[Grant]:
    """Read grants from a token's entitlements; words that name no role of ours are left out.

    >>> sorted(grant.kind for grant in grants_of(["applicant", "operator:factory:lumi-aif", "baker"]))
    ['factory', 'own']
    """
    found = set()
    for entitlement in entitlements:
        name, _, rest = entitlement.partition(":")
        kind, _, of = rest.partition(":")
        if name not in roles():
            continue
        if not rest:
            found.add(Grant(name, "own", ""))
        elif kind in ("project", "factory", "call", "federation") and of:
            found.add(Grant(name, kind, of))
    return frozenset(found)


@dataclass
class Who:
    """The person behind a request, and what they may do."""

    subject: str
    grants: frozenset[Grant]
    checked: bool = field(default=False, init=False)

    def join(self, grants: Iterable[Grant]) -> None:
        """Add what was found out after the token was read: roles in projects."""
        self.grants |= frozenset(grants)

    def may(
        self,
        permission: str,
        *,
        project: str | None = None,
        factory: str | None = None,
        call: str | None = None,
        subject: str | None = None,
    ) -> bool:
        """Whether some grant gives the permission on a thing with these owners."""
        self._known(permission)
        places = {"project": project, "factory": factory, "call": call}
        for grant in self.grants:
            reaches = roles()[grant.role]
            if permission in reaches.get("any", ()) or (
                permission in reaches.get("own", ()) and subject == self.subject
            ):
                return True
            if permission in reaches.get(grant.kind, ()) and grant.kind in places and grant.of == places[grant.kind]:
                return True
            if permission in reaches.get("federation", ()) and grant.kind == "federation":
                return True
        return False

    def must(
        self,
        permission: str,
        *,
        project: str | None = None,
        factory: str | None = None,
        call: str | None = None,
        subject: str | None = None,
    ) -> None:
        """Raise Forbidden unless some grant gives the permission on a thing with these owners (None: has no such)."""
        self.checked = True
        if not self.may(permission, project=project, factory=factory, call=call, subject=subject):
            raise Forbidden(f"{permission} is not among your permissions here")

    def scope(self, permission: str) -> Scope:
        """What of a list the person may see. Raises Forbidden if no grant gives the permission at all."""
        self.checked = True
        self._known(permission)
        held = [(grant, roles()[grant.role]) for grant in self.grants]
        everything = any(
            permission in reaches.get("any", ())
            or (permission in reaches.get("federation", ()) and grant.kind == "federation")
            for grant, reaches in held
        )
        projects, factories, calls = (
            frozenset(grant.of for grant, reaches in held if grant.kind == kind and permission in reaches.get(kind, ()))
            for kind in ("project", "factory", "call")
        )
        own = any(permission in reaches.get("own", ()) for _, reaches in held)
        if not (everything or projects or factories or calls or own):
            raise Forbidden(f"{permission} is not among your permissions")
        return Scope(everything, projects, factories, calls, self.subject if own else None)

    @staticmethod
    def _known(permission: str) -> None:
        if permission not in all_permissions():
            raise ValueError(f"no role gives the permission {permission}: a misspelling?")
