"""Calls the receivers of webhooks: the one module that speaks to addresses which others have chosen.

A name is looked up once and the connection goes to the address that was looked at, so that a second answer of the name
server changes nothing. No redirect is followed, no proxy and no credential of the environment is used, an answer is
read up to a bound, and the whole call ends in time. Requests are signed as RFC 9421 says, with hmac-sha256 over the
method, the URL, the type and the digest of the body.
"""

import asyncio
import secrets
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
from http_message_signatures import HTTPMessageSigner, MappingKeyResolver, algorithms

from aifn_accounting.domain.webhooks import ForbiddenAddress, Target, choose_address, read_target

COVERED = ("@method", "@target-uri", "content-type", "content-digest")
TAG = "aifn-webhook"
LARGEST_ANSWER = 4096
_VALID_SECONDS = 300
_CONNECTIONS = 32


class NotReached(Exception):
    """The receiver could not be called, or gave no answer in time."""

    def __init__(self, message: str, address: str | None = None) -> None:
        super().__init__(message)
        self.address = address


@dataclass(frozen=True)
class Answer:
    """What a receiver said: its status, the beginning of its body, from which address, after how long."""

    status: int
    body: bytes
    address: str
    took_ms: int


@dataclass(frozen=True)
class Letter:
    """What a receiver is sent, and what it is signed with."""

    url: str
    key_id: str
    secret: str
    body: bytes


class Receivers:
    """A client for all receivers. Close it when the work is done."""

    def __init__(self, *, allow_private: bool, timeout_seconds: float, authority: str = "") -> None:
        """`authority`: a PEM file of certificates to trust instead of the public ones; empty for those."""
        self._allow_private = allow_private
        self._timeout = timeout_seconds
        verify = ssl.create_default_context(cafile=authority) if authority else True
        # A new connection for each call: one that is kept would go to where a name pointed before.
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(
            verify=verify, trust_env=False, follow_redirects=False, timeout=timeout_seconds, limits=limits
        )

    async def close(self) -> None:
        """Let go of everything."""
        await self._http.aclose()

    async def send(self, letter: Letter) -> Answer:
        """Post a body, signed. Raises NotReached, ForbiddenAddress."""
        target = read_target(letter.url, allow_private=self._allow_private)
        began = time.monotonic()
        address: str | None = None
        try:
            async with asyncio.timeout(self._timeout):
                address = choose_address(await _addresses_of(target), allow_private=self._allow_private)
                status, body = await self._post(target, address, letter)
        except TimeoutError:
            raise NotReached(f"no answer within {self._timeout:g} s", address) from None
        except (OSError, httpx.HTTPError) as fault:
            raise NotReached(_why(fault), address) from None
        return Answer(status, body, address, int((time.monotonic() - began) * 1000))

    async def _post(self, target: Target, address: str, letter: Letter) -> tuple[int, bytes]:
        literal = f"[{address}]" if ":" in address else address
        headers = {
            "host": target.authority,
            "content-type": "application/json",
            "user-agent": "aifn-accounting",
            "accept-encoding": "identity",
            **sign(letter),
        }
        request = self._http.build_request(
            "POST",
            f"{target.scheme}://{literal}:{target.port}{target.path}",
            content=letter.body,
            headers=headers,
            extensions={"sni_hostname": target.host},
        )
        answer = await self._http.send(request, stream=True)
        try:
            body = b""
            async for part in answer.aiter_raw():
                body += part
                if len(body) >= LARGEST_ANSWER:
                    break
            return answer.status_code, body[:LARGEST_ANSWER]
        finally:
            await answer.aclose()


async def _addresses_of(target: Target) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError:
        raise NotReached(f"the name {target.host} cannot be looked up") from None
    except UnicodeError:
        raise ForbiddenAddress("the URL names no host") from None
    return [str(one[4][0]) for one in found]


class _Message:
    """The request as its receiver sees it: by its own name, not by the address that is called."""

    def __init__(self, letter: Letter) -> None:
        self.method = "POST"
        self.url = letter.url
        self.headers = {"Content-Type": "application/json"}


def sign(letter: Letter, *, at: datetime | None = None) -> dict[str, str]:
    """The headers that prove who sends a letter: `signature-input`, `signature` and `content-digest`."""
    created = at or datetime.now(UTC)
    message = _Message(letter)
    keys = MappingKeyResolver(public_keys={}, private_keys={letter.key_id: letter.secret.encode()})
    HTTPMessageSigner(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=keys).sign(
        message,
        key_id=letter.key_id,
        created=created,
        expires=created + timedelta(seconds=_VALID_SECONDS),
        nonce=secrets.token_hex(16),
        label="aifn",
        tag=TAG,
        covered_component_ids=COVERED,
        body=letter.body,
    )
    wanted = ("signature-input", "signature", "content-digest")
    return {name.lower(): value for name, value in message.headers.items() if name.lower() in wanted}


def _why(fault: Exception) -> str:
    if isinstance(fault, httpx.ConnectError) or (isinstance(fault, OSError) and not isinstance(fault, ssl.SSLError)):
        return "no connection, or no certificate that is trusted"
    return {"ReadTimeout": "no answer in time", "RemoteProtocolError": "the answer is no HTTP"}.get(
        type(fault).__name__, type(fault).__name__
    )
