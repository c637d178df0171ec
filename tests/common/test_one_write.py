"""An answer's head and body leave together; long and streamed ones arrive whole, and none is kept back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
import uvloop
from aifn_common.one_write import Gathering, OneWrite
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

LONG = "x" * 3_000_000
GET = b"GET %s HTTP/1.1\r\nhost: here\r\n\r\n"


class Wire:
    """A transport that remembers what was sent, piece by piece, and whether it was closed."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True


@given(turns=st.lists(st.lists(st.binary(min_size=1, max_size=5), max_size=4), max_size=5), closes=st.booleans())
def test_whatever_is_written_arrives_in_order_in_one_piece_for_each_turn(
    turns: list[list[bytes]], *, closes: bool
) -> None:
    wire = Wire()

    async def write() -> None:
        gathering = Gathering(wire, asyncio.get_running_loop())  # type: ignore[arg-type]
        for number, parts in enumerate(turns):
            for part in parts:
                gathering.write(part)
            if closes and number == len(turns) - 1:
                gathering.close()
            await asyncio.sleep(0)

    asyncio.run(write())
    assert wire.sent == [b"".join(parts) for parts in turns if parts]
    assert wire.closed == (closes and bool(turns))


def test_a_stream_that_waits_for_nothing_is_held_back_while_nobody_reads() -> None:
    async def ask() -> int:
        made = 0

        async def parts() -> AsyncIterator[bytes]:
            nonlocal made
            for _ in range(1000):
                made += 1
                yield bytes(100_000)

        async def streamed(_: Request) -> Response:
            return StreamingResponse(parts())

        async with served(Route("/", streamed)) as (reader, writer):
            writer.write(GET % b"/")
            await asyncio.wait_for(reader.readexactly(1000), 20)
            await asyncio.sleep(0.5)
            return made

    assert uvloop.run(ask()) < 500, "of a hundred million bytes most are not made yet"


@asynccontextmanager
async def served(*routes: Route) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with these routes."""
    config = uvicorn.Config(Starlette(routes=list(routes)), port=0, http=OneWrite, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await running


def test_a_small_answer_comes_in_one_piece_and_the_connection_goes_on() -> None:
    async def ask() -> list[bytes]:
        async def short(_: Request) -> Response:
            return PlainTextResponse("all of it")

        async with served(Route("/", short)) as (reader, writer):
            found = []
            for _ in range(3):
                writer.write(GET % b"/")
                found.append(await asyncio.wait_for(reader.read(65_536), 20))
            return found

    for answer in uvloop.run(ask()):
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\nall of it")


def test_a_long_answer_arrives_whole_before_the_server_hangs_up() -> None:
    async def ask() -> bytes:
        async def long(_: Request) -> Response:
            return PlainTextResponse(LONG, headers={"connection": "close"})

        async with served(Route("/", long)) as (reader, writer):
            writer.write(GET % b"/")
            return await asyncio.wait_for(reader.read(-1), 20)

    assert uvloop.run(ask()).split(b"\r\n\r\n", 1)[1] == LONG.encode()


def test_the_first_part_of_a_stream_does_not_wait_for_the_second() -> None:
    async def ask() -> bytes:
        more = asyncio.Event()

        async def parts() -> AsyncIterator[str]:
            yield "first"
            await more.wait()
            yield "second"

        async def streamed(_: Request) -> Response:
            return StreamingResponse(parts())

        async with served(Route("/", streamed)) as (reader, writer):
            writer.write(GET % b"/")
            found = await asyncio.wait_for(reader.readuntil(b"first"), 20)
            more.set()
            return found + await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 20)

    assert b"second" in uvloop.run(ask())
