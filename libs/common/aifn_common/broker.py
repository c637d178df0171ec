"""How to reach the broker: in clear, or over TLS with certificates from files; and why it cannot be reached."""

import asyncio
import ssl
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from aiokafka import conn
from aiokafka.errors import KafkaConnectionError
from faststream.security import BaseSecurity

from aifn_common.settings import ServiceSettings, WrongSetting

KNOCK_SECONDS = 5
KNOCK_AGAIN_MS = 500
"""Between a client's attempts while the broker is away: dozens that knock ten times a second slow its start down."""
UNWILLING = "the broker takes the connection and ends it: does it speak TLS, and is AIFN_KAFKA_CA_FILE set then?"


class Connection(conn.AIOKafkaConnection):  # type: ignore[misc]
    """A connection whose end is a fault of the network on uvloop too.

    uvloop raises RuntimeError where the broker has just closed a connection; aiokafka expects OSError alone, and a
    consumer that meets it hears nothing more (https://github.com/aio-libs/aiokafka/issues/1038).
    """

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """Send a request. Raises KafkaConnectionError, also for a transport that is closed already."""
        try:
            return super().send(request, expect_response)
        except RuntimeError as closed:
            self.close(reason=conn.CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection to {self.host}:{self.port} is closed: {closed}") from closed


conn.AIOKafkaConnection = Connection


class GroupLost(KafkaConnectionError):  # type: ignore[misc]
    """A consumer's client has given its group up: another consumer has to take its place."""


def has_ended(consumer: Any) -> bool:
    """Whether a consumer's work in its group has ended by an unexpected fault: it never hears anything again."""
    routine = getattr(getattr(consumer, "_coordinator", None), "_coordination_task", None)
    return routine is not None and bool(routine.done())


def check_group(consumer: Any, group: str) -> None:
    """Raise GroupLost for a consumer that `has_ended`: it may still fetch, until another member fetches the same."""
    if has_ended(consumer):
        raise GroupLost(f"{group} is left by its client, after a fault of its own")


def connection_of(settings: ServiceSettings) -> dict[str, Any]:
    """What every aiokafka client is told of its connection. The files are read now, so that renewed ones count.

    Raises: WrongSetting, if a file is no certificate or no key.
    """
    context = tls_context(settings)
    options: dict[str, Any] = {"bootstrap_servers": settings.kafka, "retry_backoff_ms": KNOCK_AGAIN_MS}
    return options if context is None else options | {"security_protocol": "SSL", "ssl_context": context}


def security_of(settings: ServiceSettings) -> BaseSecurity | None:
    """The same for FastStream; None in clear. Raises WrongSetting."""
    context = tls_context(settings)
    return None if context is None else BaseSecurity(ssl_context=context, use_ssl=True)


def tls_context(settings: ServiceSettings) -> ssl.SSLContext | None:
    """Trust in the brokers' authority alone, and our own certificate if there is one; None in clear.

    Raises: WrongSetting.
    """
    if not settings.kafka_ca_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=settings.kafka_ca_file)
    except OSError as wrong:
        raise WrongSetting(f"AIFN_KAFKA_CA_FILE is wrong: {settings.kafka_ca_file}: {_words(wrong)}") from None
    if settings.kafka_cert_file:
        try:
            context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file)
        except OSError as wrong:
            files = f"{settings.kafka_cert_file} and {settings.kafka_key_file}"
            raise WrongSetting(
                f"AIFN_KAFKA_CERT_FILE is wrong: {files} are no certificate and its key: {_words(wrong)}"
            ) from None
    return context


async def start_or_say_why(start: Awaitable[object], settings: ServiceSettings) -> None:
    """Start a client. Raises ConnectionError that says why the broker cannot be reached, where the client does not."""
    try:
        await start
    except (KafkaConnectionError, OSError) as fault:
        raise ConnectionError(await reason_away(settings) or UNWILLING) from fault


async def reason_away(settings: ServiceSettings) -> str | None:
    """Why no broker can be reached, in one line; None if one of them takes a connection.

    The Kafka client says only that it could not start, whatever the reason.
    """
    reasons = []
    for server in settings.kafka.split(","):
        host, _, port = server.rpartition(":")
        try:
            async with asyncio.timeout(KNOCK_SECONDS):
                context = tls_context(settings)
                reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
                # A server that does not like our certificate says so, or hangs up, only when it is read from.
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        if await reader.read(1) == b"":
                            reasons.append(f"{server} hangs up: does it want another AIFN_KAFKA_CERT_FILE?")
                            continue
                writer.close()
                return None
        except WrongSetting as wrong:
            reasons.append(str(wrong))
        except TimeoutError:
            reasons.append(f"{server} does not answer")
        except (OSError, ValueError) as fault:
            reasons.append(f"{server}: {_words(fault)}")
    return "; ".join(dict.fromkeys(reasons))


def _words(fault: Exception) -> str:
    if isinstance(fault, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {fault.verify_message} (see AIFN_KAFKA_CA_FILE)"
    if isinstance(fault, ssl.SSLError):
        return f"no TLS connection: {(fault.reason or str(fault)).replace('_', ' ').lower()}"
    return str(getattr(fault, "strerror", None) or fault)
