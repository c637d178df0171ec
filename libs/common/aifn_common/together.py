"""One statement for what many requests ask at the same time.

Each look at the database is a way there and back, and a connection taken, whatever is asked. While an answer is on
that way, those who ask the like wait, and then all of them are asked for at once; who asks alone waits for nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from aifn_common.database import CONNECTION_FAULTS, Database

Q = TypeVar("Q")
A = TypeVar("A")
MOST = 100
"""Questions in one statement: a burst becomes several, and nobody's answer grows without end."""


class Together(Generic[Q, A]):
    """Asks a database for many at once; `ask` returns the answers in the order of the questions.

    Each question is asked after it came, so whoever wrote something reads it.
    """

    def __init__(self, ask: Callable[[Database, Sequence[Q]], Awaitable[Sequence[A]]]) -> None:
        self._ask = ask
        self._waiting: dict[Database, list[tuple[Q, asyncio.Future[A]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, db: Database, question: Q) -> A:
        """The answer to one question. Raises what asking it raises; another's bad question is no fault of this one."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(db)
        if waiting is None:
            self._waiting[db] = [(question, answer)]
            task = asyncio.create_task(self._ask_on(db))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            waiting.append((question, answer))
        return await answer

    async def _ask_on(self, db: Database) -> None:
        waiting = self._waiting[db]
        try:
            while waiting:
                some = waiting[:MOST]
                del waiting[:MOST]
                if still := [one for one in some if not one[1].done()]:
                    await self._ask_for(db, still)
        finally:
            del self._waiting[db]
            for _, answer in waiting:
                answer.cancel()

    async def _ask_for(self, db: Database, some: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._ask(db, [question for question, _ in some])
            answered = list(zip(some, answers, strict=True))
        except Exception as fault:
            if len(some) == 1 or isinstance(fault, CONNECTION_FAULTS):
                for _, answer in some:
                    if not answer.done():
                        answer.set_exception(fault)
            else:
                for one in some:
                    await self._ask_for(db, [one])
        except asyncio.CancelledError:
            for _, answer in some:
                answer.cancel()
            raise
        else:
            for (_, answer), found in answered:
                if not answer.done():
                    answer.set_result(found)
