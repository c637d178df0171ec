"""What managers do with pools, allocations and projects in the terminal."""

import httpx
from aifn_client import models, pool_models

from tests.client.conftest import Services
from tests.client.samples import sample
from tests.client.test_commands import Run

ONE = httpx.Response
ALLOCATION = "accounting/v1/allocations/alloc-1"


def test_a_pool_is_funded_with_a_reason(services: Services, aifn: Run) -> None:
    services.answer("POST", "accounting/v1/pools/union-2026/funding", ONE(200, json=sample(pool_models.Pool)))
    result = aifn("pool", "fund", "union-2026", "--amount", "1000", "--reason", "from the JU")
    assert (result.exit_code, result.stderr) == (0, "")
    said = services.body
    assert said == {"amount": 1000, "source": None, "reason": "from the JU"}


def test_a_top_up_names_the_revision_that_was_read_and_says_when_it_waits(services: Services, aifn: Run) -> None:
    services.answer("GET", ALLOCATION, ONE(200, json=sample(models.Allocation) | {"revision": 7}))
    services.answer("POST", f"{ALLOCATION}/top-ups", ONE(202, json={"approval_id": "appr-1"}))
    result = aifn("allocation", "top-up", "alloc-1", "--amount", "5", "--reason", "more is needed")
    assert "appr-1" in result.stdout
    assert services.requests[-1].headers["if-match"] == '"r7"'


def test_an_extension_says_the_new_end(services: Services, aifn: Run) -> None:
    services.answer("GET", ALLOCATION, ONE(200, json=sample(models.Allocation)))
    services.answer("POST", f"{ALLOCATION}/extensions", ONE(200, json=sample(models.Allocation)))
    result = aifn("allocation", "extend", "alloc-1", "--until", "2027-04-01", "--reason", "the model is late")
    assert (result.exit_code, result.stderr) == (0, "")
    assert services.body["ends_at"] == "2027-04-01T00:00:00Z"


def test_a_project_is_closed_as_it_was_read(services: Services, aifn: Run) -> None:
    services.answer("GET", "accounting/v1/projects/aif-1", ONE(200, json=sample(models.Project) | {"revision": 3}))
    services.answer("POST", "accounting/v1/projects/aif-1/closure", ONE(200, json=sample(models.Project)))
    result = aifn("project", "close", "aif-1", "--reason", "it is over")
    assert (result.exit_code, result.stdout) == (0, "aif-1 is closed\n")
    assert services.requests[-1].headers["if-match"] == '"r3"'


def test_a_correction_names_its_line_and_says_when_it_waits(services: Services, aifn: Run) -> None:
    place = f"{ALLOCATION}/corrections"
    words = ("correction", "add", "alloc-1", "7", "--amount", "-5", "--reason", "it was right")
    services.answer("POST", place, ONE(201, json=sample(pool_models.Correction) | {"transfer_id": 9}))
    assert "line 9 corrects line 7" in aifn(*words).stdout
    assert services.body == {"transfer_id": 7, "amount": -5, "reason": "it was right"}
    services.answer("POST", place, ONE(202, json={"approval_id": "appr-1"}))
    assert aifn(*words).stdout == "this waits for a second person: aifn approval decide appr-1\n"


def test_who_decides_says_yes_or_no(services: Services, aifn: Run) -> None:
    services.answer("POST", "accounting/v1/approvals/appr-1/decision", ONE(200, json=sample(pool_models.Approval)))
    words = ("approval", "decide", "appr-1", "--reason", "seen")
    assert aifn(*words).exit_code == 2
    assert aifn(*words, "--yes", "--no").exit_code == 2
    assert aifn(*words, "--yes").exit_code == 0
    assert services.body == {"approve": True, "reason": "seen"}


def test_a_month_between_factories_is_settled_with_a_reason(services: Services, aifn: Run) -> None:
    place = "accounting/v1/clearing/bsc-aif/months/2026-11/settlement"
    services.answer("POST", place, ONE(200, json=sample(pool_models.ClearingMonth)))
    result = aifn("clearing", "settle", "bsc-aif", "2026-11", "--reason", "hours of December")
    assert (result.exit_code, services.body) == (0, {"reason": "hours of December"})
