"""Requests over HTTP/1.1 from many kept connections, each with one request on its way, and how long answers take.

The usual clients cost more than the service under test where both share two cores: this one writes prepared bytes and
finds the end of an answer by its length.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Taken:
    """What a run of requests took. `waits`: seconds for each answer, sorted."""

    seconds: float
    waits: list[float]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.waits) / self.seconds

    def at(self, percent: float) -> float:
        """How long that share of the answers took at most, in milliseconds."""
        return self.waits[min(int(len(self.waits) * percent / 100), len(self.waits) - 1)] * 1000


def get(port: int, path: str, token: str, scheme: str = "Bearer") -> bytes:
    """A GET as it goes over the wire."""
    lines = (f"GET {path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"authorization: {scheme} {token}")
    return ("\r\n".join((*lines, "accept: application/json")) + "\r\n\r\n").encode()


async def ask(port: int, requests: Sequence[bytes], *, connections: int, times: int = 1) -> Taken:
    """Send all requests, `times` over, from so many connections. Raises RuntimeError for an answer that is not 200."""
    shares = [list(requests[start::connections]) * times for start in range(min(connections, len(requests)))]
    began = time.perf_counter()
    waits = await asyncio.gather(*(_connection(port, share) for share in shares))
    took = time.perf_counter() - began
    return Taken(took, sorted(wait for some in waits for wait in some))


async def ask_each(ports: Sequence[int], requests: Sequence[Sequence[bytes]], *, connections: int) -> Taken:
    """The same of several processes at once, as what balances load before them would."""
    began = time.perf_counter()
    pairs = zip(ports, requests, strict=True)
    taken = await asyncio.gather(*(ask(port, some, connections=connections) for port, some in pairs))
    took = time.perf_counter() - began
    return Taken(took, sorted(wait for one in taken for wait in one.waits))


async def _connection(port: int, requests: Sequence[bytes]) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    waits = []
    try:
        for request in requests:
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            waits.append(time.perf_counter() - began)
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{request!r} was answered by {head!r} {body[:300]!r}")
    finally:
        writer.close()
    return waits


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError(f"an answer without a length: {head!r}")
