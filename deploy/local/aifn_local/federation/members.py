"""Who takes part in a federation: identifiers and kinds of members, names of relays."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from aifn_events.federation import MemberKind

from aifn_local.errors import StackError

_MEMBER = re.compile(r"[a-z0-9][a-z0-9-]{0,18}[a-z0-9]")
_MOST_RELAYS = 4


@dataclass(frozen=True)
class Member:
    """A member of the federation. Its id names its topics at the relays, so it has no dot and is never used again."""

    id: str
    kind: MemberKind

    def __post_init__(self) -> None:
        if not _MEMBER.fullmatch(self.id):
            raise StackError(
                f"{self.id!r} is no name for a member: use 2 to 20 small letters and digits, with hyphens between"
            )
        if self.kind not in get_args(MemberKind):
            raise StackError(f"{self.kind!r} is no kind of member: it is {', '.join(get_args(MemberKind))}")

    @property
    def pushes_as(self) -> str:
        """The name in the certificate with which it writes to a relay. No member's id has a dot."""
        return f"{self.id}.push"

    @property
    def pulls_as(self) -> str:
        """The name in the certificate with which it reads from a relay."""
        return f"{self.id}.pull"


def read_members(text: str) -> tuple[Member, ...]:
    """A list as the command line has it: ids with commas, each with `:kind` where the id does not say it.

    Raises: StackError.

    >>> [member.kind for member in read_members("ju,lumi-aif,ai-antenna-ie:antenna")]
    ['ju', 'factory', 'antenna']
    """
    members = []
    for part in text.split(","):
        name, _, kind = part.strip().partition(":")
        members.append(Member(name, kind or _kind_of(name)))  # type: ignore[arg-type]
    if len(members) < 2:
        raise StackError("a federation has two members or more: --members lumi-aif,bsc-aif")
    twice = {member.id for member in members if [other.id for other in members].count(member.id) > 1}
    if twice:
        raise StackError(f"{', '.join(sorted(twice))} is named twice: each member has an id of its own")
    return tuple(members)


def name_relays(count: int) -> tuple[str, ...]:
    """Names of so many relays. Raises StackError.

    >>> name_relays(2)
    ('relay-a', 'relay-b')
    """
    if not 1 <= count <= _MOST_RELAYS:
        raise StackError(f"a federation on one machine has one to {_MOST_RELAYS} relays, not {count}")
    return tuple(f"relay-{letter}" for letter in "abcd"[:count])


def check_names(members: Sequence[Member], relays: Sequence[str]) -> None:
    """Refuse a member called like a relay: topic names could not be told apart. Raises StackError."""
    both = {member.id for member in members} & set(relays)
    if both:
        raise StackError(f"{', '.join(sorted(both))} is the name of a relay: choose another for the member")


def _kind_of(name: str) -> str:
    return "ju" if name == "ju" else "factory"
