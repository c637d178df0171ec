"""Requests over HTTP/1.1 from many kept connections, each with one request on its way, and how long answers take.

The usual clients cost more than the service under test where both share two cores: this one writes prepared bytes and
finds the end of an answer by its length.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast


@dataclass(frozen=True)
class Taken:
    """What a run of requests took. `waits`: seconds for each answer, sorted; `own_cpu`: seconds of CPU of the asker."""

    seconds: float
    waits: list[float]
    own_cpu: float

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
    began, cpu = time.perf_counter(), time.process_time()
    waits = await asyncio.gather(*(_connection(port, share) for share in shares))
    took, burnt = time.perf_counter() - began, time.process_time() - cpu
    return Taken(took, sorted(wait for some in waits for wait in some), burnt)


async def ask_each(ports: Sequence[int], requests: Sequence[Sequence[bytes]], *, connections: int) -> Taken:
    """The same of several processes at once, as what balances load before them would."""
    began, cpu = time.perf_counter(), time.process_time()
    pairs = zip(ports, requests, strict=True)
    taken = await asyncio.gather(*(ask(port, some, connections=connections) for port, some in pairs))
    took, burnt = time.perf_counter() - began, time.process_time() - cpu
    return Taken(took, sorted(wait for one in taken for wait in one.waits), burnt)


async def _connection(port: int, requests: Sequence[bytes]) -> list[float]:
    loop = asyncio.get_running_loop()
    _, asker = await loop.create_connection(lambda: _Asker(requests, loop.create_future()), "127.0.0.1", port)
    return await asker.done


class _Asker(asyncio.Protocol):
    """One connection: a request leaves when the answer to the one before is here."""

    def __init__(self, requests: Sequence[bytes], done: asyncio.Future[list[float]]) -> None:
        self.done = done
        self._requests = iter(requests)
        self._waits: list[float] = []
        self._answer = b""
        self._wanted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._wanted:
            end = self._answer.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            self._wanted = end + _length(self._answer[:end])
        if len(self._answer) < self._wanted:
            return
        self._waits.append(time.perf_counter() - self._began)
        if not self._answer.startswith(b"HTTP/1.1 200"):
            self._transport.close()
            self.done.set_exception(RuntimeError(f"{self._request!r} was answered by {self._answer[:500]!r}"))
            return
        self._next()

    def connection_lost(self, why: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(why or ConnectionResetError(f"hung up on {self._request!r}"))

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.done.set_result(self._waits)
            self._transport.close()
            return
        self._request, self._answer, self._wanted = request, b"", 0
        self._began = time.perf_counter()
        self._transport.write(request)


def _length(head: bytes) -> int:
    start = head.lower().find(b"\r\ncontent-length:")
    if start < 0:
        raise RuntimeError(f"an answer without a length: {head!r}")
    return int(head[start + 17 : head.index(b"\r\n", start + 2)])
