"""Who may do what at a relay: each member its own prefix, all others' facts to read, and nothing else.

Rules are made from the member list alone. What no rule allows is denied by the broker, whoever asks; so a member cannot
read back its own facts, and a loop is impossible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import product

from aifn_local.federation.members import Member


class Operation(IntEnum):
    """What can be done to a topic or a consumer group, by the numbers of Kafka's protocol."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10


class Resource(IntEnum):
    """To what it is done, likewise."""

    TOPIC = 2
    GROUP = 3


@dataclass(frozen=True, order=True)
class Rule:
    """A principal may do this to everything of a kind whose name begins so. There is no rule of another form."""

    principal: str
    operation: Operation
    resource: Resource
    prefix: str


def facts_prefix(member: Member) -> str:
    """How the names of a member's facts begin at a relay: the mirror has put the member's id before them."""
    return f"{member.id}.aifn-out-"


def rules(members: Sequence[Member]) -> set[Rule]:
    """All rules of one relay.

    A mirror keeps its own notes (how far it has copied, its configuration) at the relay it writes to, in topics and a
    group that begin with the member's id as well: so one prefix is all that its credential can change.
    """
    found = set()
    for member in members:
        own, pushes = f"{member.id}.", member.pushes_as
        to_topics = (Operation.READ, Operation.WRITE, Operation.CREATE, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS)
        found |= {Rule(pushes, operation, Resource.TOPIC, own) for operation in to_topics}
        found |= {Rule(pushes, operation, Resource.GROUP, own) for operation in (Operation.READ, Operation.DESCRIBE)}
        readers = [other.pulls_as for other in members if other != member]
        to_read = (Operation.READ, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS)
        found |= {
            Rule(reader, operation, Resource.TOPIC, facts_prefix(member))
            for reader, operation in product(readers, to_read)
        }
    return found


def may(all_rules: set[Rule], principal: str, operation: Operation, topic: str) -> bool:
    """Whether the rules let this principal do this to a topic; the broker must answer the same."""
    return any(
        rule.principal == principal
        and rule.operation == operation
        and rule.resource == Resource.TOPIC
        and topic.startswith(rule.prefix)
        for rule in all_rules
    )
