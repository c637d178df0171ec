"""OGF Usage Record 2.0 (GFD-R-P.204): one record for each resource of a run segment, as XML.

The schema of the recommendation could not be had when this was written. `problems` is a structural check of our own,
made from the text: blocks and their order, required elements, forms of times and durations, identities that are unique.
We do not know a run's CPU time, and unknown is not zero: CpuDuration is left out. Who used it is a pseudonym.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

NAMESPACE = "http://schema.ogf.org/urf/2013/04/urf"
HEAD = f'<?xml version="1.0" encoding="UTF-8"?>\n<urf:UsageRecords xmlns:urf="{NAMESPACE}">\n'
TAIL = "</urf:UsageRecords>\n"

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
_DURATION = re.compile(r"PT\d+(\.\d{1,6})?S")
_BLOCKS: dict[str, tuple[tuple[str, re.Pattern[str] | None, bool], ...]] = {
    "RecordIdentityBlock": (("RecordId", None, True), ("CreateTime", _TIME, True), ("Site", None, True)),
    "SubjectIdentityBlock": (("GlobalUserId", None, True), ("GlobalGroupId", None, True)),
    "ComputeUsageBlock": (
        ("WallDuration", _DURATION, True),
        ("StartTime", _TIME, True),
        ("EndTime", _TIME, True),
        ("HostType", None, False),
        ("NodeCount", re.compile(r"\d+"), True),
        ("Charge", re.compile(r"\d+"), True),
    ),
    "JobUsageBlock": (
        ("GlobalJobId", None, True),
        ("LocalJobId", None, True),
        ("MachineName", None, True),
        ("Queue", None, True),
        ("Status", None, True),
    ),
}


@dataclass(frozen=True)
class RunSegment:
    """What one resource of one run segment cost one allocation."""

    machine_id: str
    local_job_id: str
    submitted_at: datetime
    segment: int
    revision: int
    job_id: str
    project_id: str
    allocation_id: str
    resource: str
    amount: int
    rate_card: str
    state: str
    nodes: int
    started_at: datetime
    ended_at: datetime
    user: str
    recorded_at: datetime
    factory_id: str


def element(one: RunSegment) -> str:
    """One usage record."""
    submitted = _time(one.submitted_at)
    identity = f"{one.machine_id}/{one.local_job_id}/{submitted}/{one.segment}/{one.allocation_id}/{one.resource}"
    run = one.ended_at - one.started_at
    parts = run.days * 86_400 + run.seconds, run.microseconds
    seconds = f"{parts[0]}.{parts[1]:06}".rstrip("0").rstrip(".") if parts[1] else str(parts[0])
    charge = f' urf:unit="slice-second" urf:formula={quoteattr(_clean(one.rate_card))}'
    blocks = [
        _block(
            "RecordIdentityBlock",
            ("RecordId", f"{identity}#{one.revision}"),
            ("CreateTime", _time(one.recorded_at)),
            ("Site", one.factory_id),
        ),
        _block("SubjectIdentityBlock", ("GlobalUserId", one.user), ("GlobalGroupId", one.project_id)),
        _block(
            "ComputeUsageBlock",
            ("WallDuration", f"PT{seconds}S"),
            ("StartTime", _time(one.started_at)),
            ("EndTime", _time(one.ended_at)),
            ("HostType", one.resource),
            ("NodeCount", str(one.nodes)),
            ("Charge", str(one.amount)),
            attributes={"Charge": charge},
        ),
        _block(
            "JobUsageBlock",
            ("GlobalJobId", one.job_id),
            ("LocalJobId", one.local_job_id),
            ("MachineName", one.machine_id),
            ("Queue", one.resource.split("/")[1]),
            ("Status", one.state),
        ),
    ]
    return " <urf:UsageRecord>\n" + "".join(blocks) + " </urf:UsageRecord>\n"


def document(segments: Iterable[RunSegment]) -> str:
    """A whole file."""
    return HEAD + "".join(element(one) for one in segments) + TAIL


def problems(text: str) -> list[str]:
    """What is wrong with a file, in words; nothing if it has the structure of the recommendation as we know it."""
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  # a file of our own
    except ElementTree.ParseError as wrong:
        return [f"no XML: {wrong}"]
    if root.tag != _name("UsageRecords"):
        return [f"the root is {root.tag}"]
    found = [problem for record in root for problem in _problems_of(record)]
    ids = [one.text for one in root.iter(_name("RecordId"))]
    return found + [f"the id {one} stands {ids.count(one)} times" for one in set(ids) if ids.count(one) > 1]


def _problems_of(record: ElementTree.Element) -> Iterator[str]:
    if record.tag != _name("UsageRecord"):
        yield f"{record.tag} is no usage record"
        return
    if [block.tag for block in record] != [_name(block) for block in _BLOCKS]:
        yield f"the blocks are {[block.tag for block in record]}"
        return
    for block, rules in zip(record, _BLOCKS.values(), strict=True):
        names = [one.tag for one in block]
        known = [_name(name) for name, _, required in rules if required or _name(name) in names]
        if names != known:
            yield f"{block.tag} has {names}"
            continue
        forms = {_name(name): form for name, form, _ in rules}
        for one in block:
            form = forms[one.tag]
            if not one.text or (form is not None and not form.fullmatch(one.text)):
                yield f"{one.tag} is {one.text!r}"


def _name(local: str) -> str:
    return f"{{{NAMESPACE}}}{local}"


def _block(name: str, *lines: tuple[str, str], attributes: dict[str, str] | None = None) -> str:
    more = attributes or {}
    inner = "".join(
        f"   <urf:{line}{more.get(line, '')}>{escape(_clean(value) or 'unknown')}</urf:{line}>\n"
        for line, value in lines
    )
    return f"  <urf:{name}>\n{inner}  </urf:{name}>\n"


def _clean(text: str) -> str:
    """What XML cannot say is shown as what it is: a character that is not known."""
    return _NOT_XML.sub("\ufffd", text.replace("\r", "\ufffd"))


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
