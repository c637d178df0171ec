"""The documents name only what exists: files, commands, topics, tests, decisions, statements."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aifn_client.main import app
from aifn_common import dead_letters
from aifn_common.database import transaction
from aifn_common.service import PLUMBING
from aifn_events.catalog import BY_NAME, TOPICS
from typer import Context
from typer.main import get_command

from tests.support.backends import Backends

ROOT = Path(__file__).parents[1]
SKIPPED = {".venv", ".tools", ".git", "build", "node_modules"}
DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not any(part in SKIPPED for part in path.relative_to(ROOT).parts)
)
ADRS = ROOT / "docs/adr"


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _prose(path: Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def _code(path: Path) -> str:
    """Only what a document sets as code, in blocks and in lines."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", _prose(path))])


def _blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _links(path: Path) -> Iterator[tuple[str, str]]:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(path)):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            yield file, anchor


def test_there_are_documents_for_everybody() -> None:
    expected = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/glossary.md"}
    assert expected <= {_name(path) for path in DOCUMENTS}


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    wrong = []
    for file, anchor in _links(path):
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(f"{file}#{anchor}" if anchor else file)
    assert not wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_make_command_that_is_named_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", _code(path))) <= targets


def _misnamed(words: list[str], options: list[str]) -> str | None:
    """What of a command line is no command or option of `aifn`; None if all is."""
    command: Any = get_command(app)
    context = Context(command)
    for word in words:
        if not hasattr(command, "list_commands"):
            break
        if word not in command.list_commands(context):
            return word
        command = command.get_command(context, word)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return next((option for option in options if option not in known), None)


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_aifn_command_that_is_named_exists_with_its_options(path: Path) -> None:
    lines = [line.partition("#")[0] for line in _code(path).splitlines()]
    command = re.compile(r"aifn((?: [a-z][a-z0-9]*(?:-[a-z0-9]+)*)+|(?= --))(.*)")
    named = [match for line in lines if (match := command.match(line))]
    wrong = [(line[0], _misnamed(line[1].split(), re.findall(r"--[a-z-]+", line[2]))) for line in named]
    assert not [(line, what) for line, what in wrong if what is not None]


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_topic_that_is_named_is_in_the_catalogue(path: Path) -> None:
    named = set(re.findall(r"\baifn-[a-z-]+-v\d+\b", path.read_text(encoding="utf-8")))
    assert named <= BY_NAME.keys()


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_test_that_is_named_exists(path: Path) -> None:
    tests = {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    for file in (ROOT / "tests").rglob("test_*.py"):
        tests |= set(re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8")))
    assert set(re.findall(r"(?<![\w/])test_\w{4,}", _code(path))) <= tests


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_file_that_is_named_with_its_folder_exists(path: Path) -> None:
    named = re.findall(r"(?<![\w./])((?:libs|services|deploy|tests|docs|benchmarks)/[\w./-]*\w/?)", _code(path))
    assert not [one for one in named if not (ROOT / one).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_setting_that_is_named_is_read_somewhere(path: Path) -> None:
    named = set(re.findall(r"\bAIFN_[A-Z_]+[A-Z]\b", _code(path)))
    sources = [
        file.read_text(encoding="utf-8")
        for folder in ("libs", "services", "deploy", "tests")
        for file in (ROOT / folder).rglob("*.py")
        if file != Path(__file__)
    ]
    every = "\n".join([*sources, (ROOT / "compose.yaml").read_text(encoding="utf-8")])
    fields = {f"AIFN_{name.upper()}" for name in re.findall(r"^    ([a-z_]+): .*", every, flags=re.MULTILINE)}
    fields |= {f"{name}_FILE" for name in fields}  # a secret's; which are secret, docs/configuration.md says
    assert not [name for name in named if name not in every and name not in fields]


def test_the_map_has_the_arrows_of_the_catalogue() -> None:
    (drawn_map,) = _blocks(ROOT / "ARCHITECTURE.md", "mermaid")
    drawn: dict[tuple[str, str], set[str]] = {}
    for speaker, facts, listener in re.findall(r'^\s*(\w+) -- "([^"]+)" --> (\w+)$', drawn_map, flags=re.MULTILINE):
        assert (speaker, listener) not in drawn
        drawn[speaker, listener] = {f"aifn-{fact.strip()}-v1" for fact in facts.split(",")}
    meant: dict[tuple[str, str], set[str]] = defaultdict(set)
    for topic in TOPICS:
        for listener in topic.consumers:
            meant[topic.producer, listener].add(topic.name)
    assert drawn == dict(meant)


def test_what_is_told_to_the_world_only_is_what_no_service_hears() -> None:
    rows = re.findall(r"^\| (\w+) \| [^|]+ \|([^|]*)\|$", _prose(ROOT / "ARCHITECTURE.md"), flags=re.MULTILINE)
    producers = {topic.producer for topic in TOPICS}
    told = {service: set(re.findall(r"`([^`]+)`", cell)) for service, cell in rows if service in producers}
    assert told == {
        producer: {topic.name for topic in TOPICS if topic.producer == producer and not topic.consumers}
        for producer in producers
    }


def test_decisions_are_numbered_and_listed_in_order_with_their_titles() -> None:
    listed = re.findall(r"^\| (\d+) \| \[(.+?)\]\((.+?)\) \|$", (ADRS / "README.md").read_text(), flags=re.MULTILINE)
    found = []
    for path in sorted(ADRS.glob("[0-9]*.md")):
        heading, number = path.read_text(encoding="utf-8").splitlines()[0], int(path.name[:4])
        assert heading.startswith(f"# {number}. ")
        found.append((str(number), heading.partition(". ")[2], path.name))
    assert listed == found


@pytest.mark.parametrize("path", sorted(ADRS.glob("[0-9]*.md")), ids=_name)
def test_a_decision_says_why_what_and_what_would_reopen_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^Status: (accepted|replaced by \d+), 20\d\d-\d\d-\d\d$", text, flags=re.MULTILINE)
    parts = ("Context:", "Decision:", "Consequences:", "Rejected:", "Revisit when:")
    places = [text.find(f"\n{part}") for part in parts]
    assert -1 not in places
    assert places == sorted(places)


def test_the_glossary_is_in_alphabetical_order_and_names_nothing_twice() -> None:
    words = re.findall(r"^\| ([^|]+?) \| ", _prose(ROOT / "docs/glossary.md"), flags=re.MULTILINE)
    words = [word for word in words if word != "Word" and not word.startswith("---")]
    assert len(words) > 40
    assert words == sorted(set(words), key=str.lower)


def test_every_name_in_the_glossary_is_in_the_code() -> None:
    folders = ("libs", "services", "deploy")
    files = [
        file for folder in folders for kind in ("py", "sql", "toml") for file in (ROOT / folder).rglob(f"*.{kind}")
    ]
    words = set(re.findall(r"\w+", "\n".join(file.read_text(encoding="utf-8") for file in files)))
    words |= {part for file in files for part in (*file.relative_to(ROOT).parts, file.stem)}
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| ([^|]+) \|$", _prose(ROOT / "docs/glossary.md"), flags=re.MULTILINE)
    names = [
        part for row in rows for name in re.findall(r"`([^`]+)`", row) for part in re.findall(r"[A-Za-z]\w+", name)
    ]
    assert len(names) > 60
    assert not [name for name in names if name not in words | {"json"}]


async def test_the_statements_of_the_runbooks_do_what_they_say(backends: Backends) -> None:
    statements = [sql for path in sorted((ROOT / "docs/runbooks").glob("*.md")) for sql in _blocks(path, "sql")]
    columns = "topic, key, value, raw_headers"
    async with backends.database(PLUMBING) as db:
        await db.execute(
            """
            INSERT INTO dead_letter (id, consumer, topic, partition, "offset", key, value, raw_headers, code, reason,
                details)
            OVERRIDING SYSTEM VALUE
            VALUES (7, 'siteagent-job-dispatched-v1', 'aifn-job-dispatched-v1', 0, 42, 'k', 'v', '[["a", "b"]]',
                'unknown_partition', 'not yet', '{}')"""
        )
        for statement in statements:
            await db.execute(statement)
        by_hand = await db.fetch(f"SELECT {columns} FROM outbox")
        assert await db.fetchval("SELECT replayed_by FROM dead_letter") == "your name"
        async with transaction(db) as tx:
            await tx.execute("DELETE FROM outbox")
            await dead_letters.replay(tx, 7, by="somebody")
        assert by_hand == await db.fetch(f"SELECT {columns} FROM outbox")
        assert len(by_hand) == 1
