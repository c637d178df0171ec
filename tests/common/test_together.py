"""What many ask at the same time: each gets their own answer, from a look at the database after they asked."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aifn_common.together import MOST, Together


class Library:
    """Answers after a word is given, and remembers what it was asked at once."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.word = asyncio.Event()
        self.faults: dict[str, Exception] = {}

    async def ask(self, _: Any, questions: Sequence[str]) -> list[str]:
        self.asked.append(list(questions))
        await self.word.wait()
        for question in questions:
            if question in self.faults:
                raise self.faults[question]
        return [f"answer to {question}" for question in questions]


def several(together: Together[str, str], *questions: str, db: Any = "db") -> list[asyncio.Task[str]]:
    async def ask(question: str) -> str:
        return await together(db, question)

    return [asyncio.create_task(ask(question)) for question in questions]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def behind_another(library: Library, together: Together[str, str], *questions: str) -> list[Any]:
    """The answers to a first question, and to these that came while it was on its way."""
    asking = several(together, "first")
    await turns()
    asking += several(together, *questions)
    library.word.set()
    return await asyncio.gather(*asking, return_exceptions=True)


async def test_who_asks_alone_is_asked_for_at_once() -> None:
    library = Library()
    library.word.set()
    together = Together(library.ask)
    assert await together("db", "a") == "answer to a"  # type: ignore[arg-type]
    assert await together("db", "b") == "answer to b"  # type: ignore[arg-type]
    assert library.asked == [["a"], ["b"]]


async def test_who_comes_while_an_answer_is_on_its_way_is_asked_for_after_it_with_all_others() -> None:
    library = Library()
    together = Together(library.ask)
    first = several(together, "a")
    await turns()
    others = several(together, "b", "c", "d")
    await turns()
    assert library.asked == [["a"]]
    library.word.set()
    assert await asyncio.gather(*first, *others) == [f"answer to {name}" for name in "abcd"]
    assert library.asked == [["a"], ["b", "c", "d"]]


async def test_databases_are_asked_apart() -> None:
    library = Library()
    together = Together(library.ask)
    asking = several(together, "a", db="one") + several(together, "b", db="other")
    await turns()
    assert library.asked == [["a"], ["b"]]
    library.word.set()
    assert await asyncio.gather(*asking) == ["answer to a", "answer to b"]


async def test_a_burst_becomes_several_statements() -> None:
    library = Library()
    library.word.set()
    names = [str(number) for number in range(2 * MOST + 10)]
    asking = several(Together(library.ask), *names)
    assert await asyncio.gather(*asking) == [f"answer to {name}" for name in names]
    assert [name for some in library.asked for name in some] == names
    assert max(map(len, library.asked)) <= MOST


async def test_a_bad_question_fails_alone() -> None:
    library = Library()
    library.faults["bad"] = ValueError("what?")
    together = Together(library.ask)
    answers = await behind_another(library, together, "b", "bad", "c")
    assert answers[:2] + answers[3:] == ["answer to first", "answer to b", "answer to c"]
    assert repr(answers[2]) == repr(ValueError("what?"))
    assert await together("db", "later") == "answer to later"  # type: ignore[arg-type]


async def test_a_database_that_answers_too_little_leaves_nobody_waiting() -> None:
    async def ask(_: Any, questions: Sequence[str]) -> list[str]:
        await asyncio.sleep(0)
        return []

    asking = several(Together(ask), "a", "b")
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in answers] == [ValueError, ValueError]


async def test_a_process_that_ends_leaves_nobody_waiting() -> None:
    library = Library()
    together = Together(library.ask)
    asking = several(together, "a")
    await turns()
    asking += several(together, "b")
    await turns()
    [task] = together._tasks
    task.cancel()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in answers] == [asyncio.CancelledError] * 2


async def test_a_lost_connection_is_told_to_all_and_not_tried_once_for_each() -> None:
    library = Library()
    library.faults["b"] = ConnectionResetError("gone")
    answers = await behind_another(library, Together(library.ask), "a", "b", "c")
    assert [type(one) for one in answers] == [str] + [ConnectionResetError] * 3
    assert len(library.asked) == 2


async def test_who_goes_away_keeps_no_answer_from_others() -> None:
    library = Library()
    together = Together(library.ask)
    impatient, patient = several(together, "a", "b")
    await turns()
    late = several(together, "c", "d")
    await turns()
    impatient.cancel()
    late[0].cancel()
    await turns()
    library.word.set()
    assert await patient == "answer to b"
    assert await late[1] == "answer to d"
    assert library.asked[-1] == ["d"]
    with pytest.raises(asyncio.CancelledError):
        await impatient
