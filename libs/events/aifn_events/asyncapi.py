"""Makes the AsyncAPI 3.0 document: what flows over which topic, and which service sends and receives it.

Source: AsyncAPI 3.0.0, and its Kafka bindings 0.5.0.
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from aifn_events.catalog import Service, Topic

_KAFKA = "0.5.0"
_ROOM = "#/components/schemas/"


def document(published: Iterable[tuple[Topic, dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Build the document from (topic, JSON Schema of its value, golden message), one of each per topic.

    Schemas go into `components` without `$schema` and `$id`: they use nothing that draft 7 lacks, which is what
    AsyncAPI tools read, and their `$ref` must be found from the root of this document.
    Raises: ValueError, if two contracts use one name for different things.
    """
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for topic, schema, golden in published:
        name = topic.event.__name__
        channels[topic.name] = _channel(topic)
        messages[name] = _message(topic, schema, golden)
        for part, content in _parts(name, schema).items():
            if schemas.setdefault(part, content) != content:
                raise ValueError(f"two contracts have a part called {part}, and they differ")
        operations |= _operations(topic)
    return {
        "asyncapi": "3.0.0",
        "id": "urn:aifn:events",
        "info": {
            "title": "AI Factory Network: events",
            "version": version("aifn-events"),
            "description": "Facts that the services of the AI Factory Network tell each other and other systems, as "
            "CloudEvents 1.0 in Kafka binary mode: attributes in headers, the payload alone as value. "
            "A version of a fact only ever gains optional fields; anything else is a new topic.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def _channel(topic: Topic) -> dict[str, Any]:
    name = topic.event.__name__
    settings = topic.settings()
    configuration: dict[str, Any] = {"cleanup.policy": settings["cleanup.policy"].split(",")}
    if "retention.ms" in settings:
        configuration["retention.ms"] = int(settings["retention.ms"])
    return {
        "address": topic.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": _KAFKA,
            }
        },
        "x-aifn-dead-letters": topic.dead_name,
    }


def _message(topic: Topic, schema: dict[str, Any], golden: dict[str, Any]) -> dict[str, Any]:
    name, doc = topic.event.__name__, str(schema["description"])
    return {
        "name": name,
        "title": topic.event.type_name(),
        "summary": doc.splitlines()[0],
        "description": doc,
        "contentType": "application/json",
        "headers": _headers(topic),
        "payload": {"$ref": _ROOM + name},
        "bindings": {
            "kafka": {"key": schema["properties"][topic.event.key_field], "bindingVersion": _KAFKA},
        },
        "examples": [{"name": "golden", "headers": golden["headers"], "payload": golden["value"]}],
    }


def _headers(topic: Topic) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"],
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": {
                **text,
                "maxLength": 128,
                "description": "with ce_source it names the event: drop copies by both",
            },
            "ce_source": {**text, "maxLength": 255, "description": "who says it, e.g. urn:aifn:lumi-aif:scheduler"},
            "ce_type": {"type": "string", "const": topic.event.type_name()},
            "ce_time": {"type": "string", "format": "date-time", "description": "when it was said"},
            "ce_partitionkey": {**text, "description": f"the key of the message: {topic.event.key_field}"},
            "ce_dataschema": {"type": "string", "const": f"urn:aifn:schema:{topic.name}"},
            "content-type": {"type": "string", "const": "application/json"},
            "traceparent": {"type": "string", "maxLength": 64, "description": "W3C Trace Context"},
        },
    }


def _operations(topic: Topic) -> dict[str, Any]:
    found = {f"{topic.producer}-sends-{topic.name}": _operation("send", topic, topic.producer)}
    for service in topic.consumers:
        found[f"{service}-receives-{topic.name}"] = _operation("receive", topic, service)
    return found


def _operation(action: str, topic: Topic, service: Service) -> dict[str, Any]:
    channel = f"#/channels/{topic.name}"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{topic.event.__name__}"}],
        "tags": [{"name": service}],
    }


def _parts(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    whole = {key: value for key, value in schema.items() if key not in ("$schema", "$id", "$defs")}
    return {part: _moved(content) for part, content in {name: whole, **schema.get("$defs", {})}.items()}


def _moved(content: Any) -> Any:
    """The same, with references to `$defs` led to the components of the document."""
    if isinstance(content, list):
        return [_moved(one) for one in content]
    if not isinstance(content, dict):
        return content
    ref = content.get("$ref")
    if isinstance(ref, str):
        return {**content, "$ref": ref.replace("#/$defs/", _ROOM, 1)}
    return {key: _moved(value) for key, value in content.items()}
