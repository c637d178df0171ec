"""The words to other systems: what the README of the contracts shows exists and runs."""

import asyncio
import json
import re
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import aiokafka
import pytest
from aifn_events import publish
from aifn_events.catalog import BY_NAME, TOPICS

ROOT = Path(__file__).parents[2]
README = (ROOT / "libs/events/README.md").read_text()
CHANGELOG = (ROOT / "libs/events/CHANGELOG.md").read_text()


class Consumer:
    """Gives the same charge twice, a broken message, and a correction; then ends."""

    commits = 0

    def __init__(self, topic: str, **settings: Any) -> None:
        golden = publish.golden_message(BY_NAME[topic])
        headers = [(name, text.encode()) for name, text in golden["headers"].items()]
        value = golden["value"]
        values = [value, value, {}, {**value, "revision": 1, "amount": 7}]
        self._left = [
            SimpleNamespace(offset=place, headers=headers, value=json.dumps(one).encode())
            for place, one in enumerate(values)
        ]
        assert settings["enable_auto_commit"] is False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SimpleNamespace:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)

    async def commit(self) -> None:
        Consumer.commits += 1


def test_the_python_example_counts_a_copy_once_and_a_correction_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    started: list[Coroutine[Any, Any, None]] = []
    monkeypatch.setattr(aiokafka, "AIOKafkaConsumer", Consumer)
    monkeypatch.setattr(Consumer, "commits", 0)
    with monkeypatch.context() as inside:
        inside.setattr(asyncio, "run", started.append)
        exec(compile(example, "README.md", "exec"), {"__name__": "example"})  # noqa: S102
    (main,) = started
    asyncio.run(main)
    lines = capsys.readouterr().out.splitlines()
    charged = {("aif-2026-0117", "lumi/lumi-g/gpu-time"): 192_000}
    assert lines[:2] == [str(charged)] * 2
    assert lines[2].startswith("skipped offset 2: invalid_payload: ")
    assert lines[3] == str(dict.fromkeys(charged, 7))
    assert Consumer.commits == 4


def test_every_topic_that_is_named_exists() -> None:
    named = set(re.findall(r"aifn-[a-z-]+-v\d+", README + CHANGELOG))
    assert named
    assert named <= BY_NAME.keys()


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README + CHANGELOG)
    assert len(links) >= 5
    for link in links:
        assert (ROOT / "libs/events" / link).exists(), link


def test_the_changelog_counts_the_topics() -> None:
    assert f"{len(TOPICS)} topics" in CHANGELOG


def test_every_header_we_send_is_explained() -> None:
    for name in publish.golden_message(TOPICS[0])["headers"]:
        assert f"| `{name}` |" in README
