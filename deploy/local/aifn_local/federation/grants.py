"""Puts rules into force at a relay, over Kafka's own protocol.

Kafka's AclCommand is a Java program that takes a second for each rule; aiokafka has the messages, though its
administrator's client does not use them.
"""

from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest

from aifn_local.errors import StackError
from aifn_local.federation.mirror import RelayAccess
from aifn_local.federation.rules import Operation, Resource, Rule

_ANY = 1
_PREFIXED = 4
_ALLOW = 3
_EVERY_HOST = "*"


async def enforce(relay: RelayAccess, wanted: set[Rule]) -> None:
    """Have these rules and no others. What is right already is not touched, so running mirrors notice nothing.

    Args:
        relay: address and credential of its administrator, in `push`.
    Raises: StackError, if the relay refuses.
    """
    client = AIOKafkaClient(
        bootstrap_servers=relay.bootstrap, security_protocol="SSL", ssl_context=tls(relay), request_timeout_ms=20_000
    )
    await client.bootstrap()
    try:
        there = await _in_force(client)
        for rule in sorted(there - wanted):
            answer = await _ask(client, DeleteAclsRequest(*_terms(rule)))
            _check(relay, answer.filter_responses[0])
        for rule in sorted(wanted - there):
            answer = await _ask(client, CreateAclsRequest(*_terms(rule)))
            _check(relay, answer.creation_responses[0])
    finally:
        await client.close()


async def in_force(relay: RelayAccess) -> set[Rule]:
    """The rules a relay has now, for its administrator."""
    client = AIOKafkaClient(bootstrap_servers=relay.bootstrap, security_protocol="SSL", ssl_context=tls(relay))
    await client.bootstrap()
    try:
        return await _in_force(client)
    finally:
        await client.close()


def tls(relay: RelayAccess, *, pull: bool = False) -> Any:
    """How a Python client shows its certificate to a relay: the one that writes, or the one that reads."""
    files = relay.pull if pull else relay.push
    return create_ssl_context(cafile=str(relay.authority), certfile=str(files), keyfile=str(files))


async def _in_force(client: AIOKafkaClient) -> set[Rule]:
    answer = await _ask(client, DescribeAclsRequest(_ANY, None, _ANY, None, None, _ANY, _ANY))
    if answer.error_code:
        raise StackError(f"a relay does not show its rules: {for_code(answer.error_code).__name__}")
    return {
        Rule(principal.removeprefix("User:"), Operation(operation), Resource(kind), name)
        for kind, name, _pattern, acls in answer.resources
        for principal, _host, operation, _permission in acls
    }


def _terms(rule: Rule) -> tuple[int, str, int, str, str, int, int]:
    return rule.resource, rule.prefix, _PREFIXED, f"User:{rule.principal}", _EVERY_HOST, rule.operation, _ALLOW


def _check(relay: RelayAccess, answer: tuple[Any, ...]) -> None:
    code, message, *_ = answer
    if code:
        raise StackError(f"{relay.alias} does not take a rule: {message or for_code(code).__name__}")


async def _ask(client: AIOKafkaClient, request: Any) -> Any:
    node = client.get_random_node()
    if node is None:
        raise StackError("a relay does not answer: is it running?")
    return await client.send(node, request)
