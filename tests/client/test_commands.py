"""What people and scripts see: tables, JSON, refusals, exit statuses."""

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aifn_client import models, period_models, pool_models
from aifn_client.context import Context
from aifn_client.main import app
from typer.main import get_command
from typer.testing import CliRunner, Result

from tests.client import test_outputs
from tests.client.conftest import ISSUER, Services, jwt, page, problem
from tests.client.samples import sample

Run = Callable[..., Result]
ONE = httpx.Response


def own_commands() -> Iterator[tuple[str, ...]]:
    """Every group and every command that comes with `aifn`."""
    top: Any = get_command(app)
    for name, command in top.commands.items():
        yield (name,)
        for inner in getattr(command, "commands", {}):
            yield (name, inner)


LISTS = [
    ("machine list", "registry/v1/machines", models.Machine),
    ("partition list", "registry/v1/partitions", models.Partition),
    ("factory list", "registry/v1/factories", models.Factory),
    ("mode list", "scheduler/v1/modes", models.Mode),
    ("call list", "scheduler/v1/calls", models.Call),
    ("application list", "scheduler/v1/applications", models.Application),
    ("job list", "scheduler/v1/jobs", models.Job),
    ("project list", "accounting/v1/projects", models.Project),
    ("project balance aif-1", "accounting/v1/projects/aif-1/allocations", models.Allocation),
    ("period list", "accounting/v1/periods", period_models.Period),
    ("period totals 2026-10", "accounting/v1/periods/2026-10/totals", period_models.MonthTotal),
    ("period entries 2026-10", "accounting/v1/periods/2026-10/entries", period_models.LinkedEntry),
    ("period verify 2026-10", "accounting/v1/periods/2026-10/verify", period_models.PeriodCheck),
    ("rate list", "accounting/v1/rate-cards", period_models.RateCard),
    ("gap list", "accounting/v1/gaps", period_models.Gap),
    ("pool list", "accounting/v1/pools", pool_models.Pool),
    ("cap list", "accounting/v1/caps", pool_models.Cap),
    ("approval list", "accounting/v1/approvals", pool_models.Approval),
    ("correction list", "accounting/v1/corrections", pool_models.Correction),
    ("clearing list", "accounting/v1/clearing", pool_models.Clearing),
    ("ledger statement alloc-1", "accounting/v1/allocations/alloc-1/statement", models.Transfer),
    ("dataset list", "datalab/v1/datasets", models.Dataset),
    ("access list", "datalab/v1/access-requests", models.AccessRequest),
    ("course list", "skills/v1/courses", models.Course),
    ("suggestion list", "skills/v1/suggestions", models.Suggestion),
    ("deadletter list --service accounting", "accounting/v1/dead-letters", models.DeadLetter),
]
THINGS = [
    ("machine show lumi", "registry/v1/machines/lumi", models.Machine),
    ("partition show lumi-g", "registry/v1/partitions/lumi-g", models.Partition),
    ("factory show lumi-aif", "registry/v1/factories/lumi-aif", models.Factory),
    ("mode show aif_playground", "scheduler/v1/modes/aif_playground", models.Mode),
    ("application show app-1", "scheduler/v1/applications/app-1", models.Application),
    ("job show j-1", "scheduler/v1/jobs/j-1", models.Job),
    ("job why j-1", "scheduler/v1/jobs/j-1/why", models.Why),
    ("job charges j-1", "accounting/v1/jobs/j-1/charges", models.JobCharges),
    ("project show aif-1", "accounting/v1/projects/aif-1", models.Project),
    ("pool show union-2026", "accounting/v1/pools/union-2026", pool_models.Pool),
    ("cap show small", "accounting/v1/caps/small", pool_models.Cap),
    ("cap headroom lumi/lumi-g/gpu-time", "accounting/v1/headroom", pool_models.Headroom),
    ("clearing show bsc-aif 2026-11", "accounting/v1/clearing/bsc-aif/months/2026-11", pool_models.ClearingMonth),
    ("ledger verify", "accounting/v1/ledger/verify", models.Verification),
    ("dataset show finnish-speech", "datalab/v1/datasets/finnish-speech", models.Dataset),
    ("access show req-1", "datalab/v1/access-requests/req-1", models.AccessRequest),
    ("course show rocm-porting", "skills/v1/courses/rocm-porting", models.Course),
]


@pytest.mark.parametrize("words", list(own_commands()), ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], aifn: Run) -> None:
    result = aifn(*words, "--help")
    assert result.exit_code == 0
    assert f"Usage: aifn {' '.join(words)}" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_every_list_and_every_thing_is_tried_here() -> None:
    everywhere = [*LISTS, *THINGS, *test_outputs.LISTS, *test_outputs.THINGS]
    tried = {tuple(words.split()[:2]) for words, *_ in everywhere}
    wanted = {
        words
        for words in own_commands()
        if len(words) > 1 and words[-1] in ("list", "show", "why", "balance", "charges", "verify")
    }
    assert wanted <= tried


@pytest.mark.parametrize(("words", "place", "kind"), LISTS, ids=[words for words, _, _ in LISTS])
@pytest.mark.parametrize("width", [20, 80, 120])
def test_a_list_is_a_table_that_keeps_within_the_screen(
    words: str, place: str, kind: type[models.View], width: int, services: Services, aifn: Run
) -> None:
    services.answer("GET", place, page(sample(kind), sample(kind)))
    result = aifn(*words.split(), width=width)
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(len(line) <= width for line in result.stdout.splitlines())
    assert len(result.stdout.splitlines()) >= 3


@pytest.mark.parametrize(("words", "place", "kind"), LISTS, ids=[words for words, _, _ in LISTS])
def test_a_list_for_scripts_is_one_json_list_of_what_the_api_gave(
    words: str, place: str, kind: type[models.View], services: Services, aifn: Run
) -> None:
    given = [{**sample(kind), "of_tomorrow": "1.50"}, sample(kind)]
    services.answer("GET", place, page(given[0], then="more"), page(given[1]))
    result = aifn(*words.split(), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, given)


@pytest.mark.parametrize(("words", "place", "kind"), LISTS, ids=[words for words, _, _ in LISTS])
def test_an_empty_list_is_said_to_be_empty_and_is_a_list_for_scripts(
    words: str, place: str, kind: type[models.View], services: Services, aifn: Run
) -> None:
    services.answer("GET", place, page())
    shown = aifn(*words.split())
    assert (shown.exit_code, shown.stdout, shown.stderr.count("\n")) == (0, "", 1)
    assert json.loads(aifn(*words.split(), "--json").stdout) == []


@pytest.mark.parametrize(("words", "place", "kind"), THINGS, ids=[words for words, _, _ in THINGS])
def test_a_thing_is_shown_by_names_and_values_or_as_the_api_gave_it(
    words: str, place: str, kind: type[models.View], services: Services, aifn: Run
) -> None:
    services.answer("GET", place, ONE(200, json=sample(kind)))
    services.answer("GET", "skills/v1/sessions", page(sample(models.Session)))
    shown = aifn(*words.split())
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    assert json.loads(aifn(*words.split(), "--json").stdout) == sample(kind)


def test_a_name_and_a_number_stay_in_one_piece_while_there_is_room(services: Services, aifn: Run) -> None:
    services.answer("GET", "scheduler/v1/jobs", page(sample(models.Job)))
    for width in (80, 120):
        row = aifn("job", "list", width=width).stdout.splitlines()[1].split()
        assert row[:2] == ["lumi-aif-0198c7d2a1b3-4f2a9c", "aif-2026-0117"]


def test_amounts_are_the_exact_decimals_of_the_api(services: Services, aifn: Run) -> None:
    hours = {"granted": "123456789.125", "available": "0.001", "held": "0.000", "charged": "7.500", "overrun": "0.000"}
    services.answer(
        "GET", "accounting/v1/projects/p/allocations", page(sample(models.Allocation, gpu_hours=hours)),
        page(sample(models.Allocation, gpu_hours=None, node_hours={**hours, "granted": "2.250"})),
        page(sample(models.Allocation, gpu_hours=None, node_hours=None, granted=288_000_001)),
    )  # fmt: skip
    shown = [aifn("project", "balance", "p", width=120).stdout for _ in range(3)]
    assert "GPU-hours" in shown[0]
    assert all(amount in shown[0].split() for amount in ("123456789.125", "0.001", "7.500"))
    assert "node-hours  2.250" in " ".join(shown[1].split(" ")).replace("    ", "  ")
    assert "288000001" in shown[2]


def test_a_service_cannot_move_the_cursor_or_colour_the_screen(services: Services, aifn: Run) -> None:
    evil = "\x1b[2J[red]x[/red]\x9b31m\u202e"
    services.answer("GET", "registry/v1/machines", page(sample(models.Machine, name=evil)))
    services.answer("GET", "registry/v1/machines/lumi", problem(404, "not_found", evil))
    shown = aifn("machine", "list", width=120)
    assert "[red]x[/red]" in shown.stdout
    refused = aifn("machine", "show", "lumi")
    for character in ("\x1b", "\x9b", "\u202e"):
        assert character not in shown.stdout + refused.stderr
    assert aifn("machine", "list", "--json").stdout.isascii()


def test_more_than_fits_is_said_on_stderr_and_all_shows_it(services: Services, aifn: Run) -> None:
    jobs = [sample(models.Job, job_id=f"j-{number}") for number in range(3)]
    services.answer("GET", "scheduler/v1/jobs", page(*jobs))
    few = aifn("job", "list", "--limit", "2", "--json")
    assert [job["job_id"] for job in json.loads(few.stdout)] == ["j-0", "j-1"]
    assert "--all" in few.stderr
    whole = aifn("job", "list", "--all", "--json")
    assert (len(json.loads(whole.stdout)), whole.stderr) == (3, "")


def test_filters_reach_the_service(services: Services, aifn: Run) -> None:
    services.answer("GET", "registry/v1/partitions", page())
    aifn("partition", "list", "--gpu-vendor", "AMD", "--min-devices", "8", "--machine", "lumi")
    asked = services.requests[-1].url.params
    assert dict(asked) == {"machine": "lumi", "gpu_vendor": "AMD", "min_devices": "8", "limit": "101"}


REFUSALS = [
    (problem(401, "unauthenticated", "the token is over"), 1, "[unauthenticated]", "aifn login --as pi"),
    (problem(403, "forbidden", "job.read is not yours"), 1, "[forbidden]", "aifn whoami"),
    (problem(404, "not_found", "no machine lumo"), 1, "no machine lumo [not_found]", "`aifn machine list`"),
    (problem(422, "invalid", "machine_id: wrong"), 1, "[invalid]", ""),
    (problem(500, "fault", "this is our fault"), 3, "our fault", "try again"),
]


@pytest.mark.parametrize(("answer", "status", "said", "advice"), REFUSALS, ids=["401", "403", "404", "422", "500"])
def test_a_refusal_is_a_line_or_two_on_stderr_that_say_what_to_do(
    answer: httpx.Response, status: int, said: str, advice: str, services: Services, aifn: Run
) -> None:
    services.answer("GET", "registry/v1/machines/lumo", answer)
    result = aifn("machine", "show", "lumo", "--json")
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
    assert advice in result.stderr
    assert 1 <= result.stderr.count("\n") <= 2


def test_a_service_that_does_not_answer_is_exit_status_3(services: Services, aifn: Run) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    services.answer("GET", "registry/v1/machines", refuse)
    result = aifn("machine", "list")
    assert result.exit_code == 3
    assert "registry does not answer at http://registry.test" in result.stderr


def test_a_factory_nobody_started_is_exit_status_3(home: Path, aifn: Run) -> None:
    (home / "context.json").unlink()
    result = aifn("machine", "list")
    assert result.exit_code == 3
    assert "aifn up" in result.stderr


@pytest.mark.parametrize(
    "words",
    ["machine show", "machine shwo lumi", "job list --state", "machine show ..", "deadletter replay 0 --service a",
     "job submit no-such-file --project p --walltime 1h --nodes 1", "job submit - --project p --walltime 60 --nodes 1",
     "job submit - --project p --walltime 1h", "job submit - --project p --walltime 1h --nodes 1 --cores 2",
     "application submit --ask lumi-g", "application submit --file no-such-file", "mode list --limit 0"],
)  # fmt: skip
def test_what_cannot_be_meant_is_exit_status_2_and_asks_no_service(words: str, services: Services, aifn: Run) -> None:
    result = aifn(*words.split(), stdin="#!/bin/sh\n")
    assert (result.exit_code, result.stdout, services.requests) == (2, "", [])
    assert result.stderr


def test_an_answer_of_another_age_is_said_to_be_unreadable(services: Services, aifn: Run) -> None:
    services.answer("GET", "registry/v1/machines/lumi", ONE(200, json={"machine_id": "lumi"}))
    result = aifn("machine", "show", "lumi")
    assert result.exit_code == 1
    assert "not as expected" in result.stderr


def test_a_job_is_queued_as_it_was_described(services: Services, aifn: Run) -> None:
    services.answer("POST", "scheduler/v1/jobs", ONE(201, json=sample(models.Job)))
    result = aifn(
        "job", "submit", "-", "--project", "aif-2026-0117", "--walltime", "1:30:00", "--devices", "8",
        "--partition", "lumi-g", "--name", "train", "--stack", "rocm", "--key", "tuesday",
        stdin="#!/bin/sh\nsleep 5\n",
    )  # fmt: skip
    assert result.exit_code == 0
    assert services.body == {
        "project_id": "aif-2026-0117",
        "name": "train",
        "partition_id": "lumi-g",
        "devices": 8,
        "walltime_seconds": 5400,
        "script": "#!/bin/sh\nsleep 5\n",
        "software_stack": "rocm",
    }
    assert services.requests[-1].headers["idempotency-key"] == "tuesday"


def test_a_job_is_taken_back(services: Services, aifn: Run) -> None:
    job = sample(models.Job, state="running", outcome=None, cancel_asked=True)
    services.answer("DELETE", "scheduler/v1/jobs/j-1", ONE(200, json=job))
    assert "its end has been asked for" in aifn("job", "cancel", "j-1", width=120).stdout


def test_an_application_is_put_together_from_a_file_and_options(services: Services, aifn: Run, tmp_path: Path) -> None:
    file = tmp_path / "application.json"
    applicant = {"name": "Puhe Oy", "kind": "startup", "country": "FI", "staff": 12}
    file.write_text(
        json.dumps({"title": "Speech", "organisation": applicant, "statements": {"ai_act_compliance": True}})
    )
    services.answer("POST", "scheduler/v1/applications", ONE(201, json=sample(models.Application)))
    result = aifn(
        "application", "submit", "--file", str(file), "--call", "aif-playground", "--months", "2", "--staff", "13",
        "--ask", "lumi-g=5000", "--state", "civilian_use",
    )  # fmt: skip
    assert result.exit_code == 0
    assert services.body == {
        "call_id": "aif-playground",
        "title": "Speech",
        "organisation": {**applicant, "staff": 13},
        "asks": [{"partition_id": "lumi-g", "gpu_hours": 5000}],
        "months": 2,
        "statements": {"ai_act_compliance": True, "civilian_use": True},
    }
    assert "applicant_kind" in result.stdout


def test_an_application_is_granted_with_a_reason(services: Services, aifn: Run) -> None:
    services.answer("POST", "scheduler/v1/applications/app-1/award", ONE(200, json=sample(models.Application)))
    assert aifn("application", "award", "app-1", "--reason", "it scales").exit_code == 0
    assert services.body == {"reason": "it scales"}


def test_a_dataset_is_described_and_asked_for_and_decided_upon(services: Services, aifn: Run, tmp_path: Path) -> None:
    words = {"dataset_id": "d-1", "title": "D", "licence": "CC0-1.0", "sensitivity": "open", "grade": "open",
             "location": "s3://a/b/", "contact": "me"}  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(words))
    request = sample(models.AccessRequest)
    services.answer("POST", "datalab/v1/datasets", ONE(201, json=sample(models.Dataset)))
    services.answer("POST", "datalab/v1/access-requests", ONE(201, json=request))
    services.answer("POST", "datalab/v1/access-requests/req-1/decision", ONE(200, json=request))
    assert aifn("dataset", "register", str(tmp_path / "d.json")).exit_code == 0
    assert services.body == words
    asked = aifn("dataset", "request", "finnish-speech", "--project", "aif-2026-0117", "--purpose", "train", "--json")
    assert json.loads(asked.stdout) == request
    assert services.body["dataset_id"] == "finnish-speech"
    assert aifn("access", "decide", "req-1", "--refuse", "--reason", "no agreement").exit_code == 0
    assert services.body == {"granted": False, "reason": "no agreement"}


def test_a_seat_is_booked(services: Services, aifn: Run) -> None:
    services.answer("POST", "skills/v1/sessions/s-1/seats", ONE(201, json=sample(models.Seat)))
    assert "Porting to ROCm" in aifn("course", "book", "s-1").stdout


def test_a_dead_letter_is_sent_again(services: Services, aifn: Run) -> None:
    services.answer("POST", "accounting/v1/dead-letters/7/replay", ONE(200, json=sample(models.Replayed)))
    result = aifn("deadletter", "replay", "7", "--service", "accounting")
    assert result.stdout == "message 7 was sent again to aifn-job-placed-v1\n"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_ledger_that_does_not_hold_is_exit_status_1(form: list[str], services: Services, aifn: Run) -> None:
    services.answer("GET", "accounting/v1/ledger/verify", ONE(200, json=sample(models.Verification, passed=False)))
    result = aifn("ledger", "verify", *form)
    assert result.exit_code == 1
    assert ("NOT hold" in result.stdout) is (not form)


def event(number: int) -> dict[str, Any]:
    return sample(models.UsageEvent, number=number, job_id=f"j-{number}")


def test_the_tail_of_the_feed_is_its_latest_events(services: Services, aifn: Run) -> None:
    services.answer("GET", "accounting/v1/usage-events", page(event(1), event(2), then="a"), page(event(3), then="b"),
                    page())  # fmt: skip
    result = aifn("event", "tail", "-n", "2", "--json")
    assert [json.loads(line)["number"] for line in result.stdout.splitlines()] == [2, 3]
    assert [request.url.params.get("after") for request in services.requests] == [None, "a", "b"]


def test_a_followed_feed_shows_each_new_event_once_until_it_is_stopped(
    services: Services, aifn: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("aifn_client.commands.accounting.time.sleep", pauses.append)

    def stop(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    services.answer(
        "GET", "accounting/v1/usage-events", page(event(1), then="a"), page(), page(), page(event(2), then="b"),
        page(event(3), then="c"), stop,
    )  # fmt: skip
    result = aifn("event", "tail", "--follow", "--every", "2", "--json")
    assert [json.loads(line)["number"] for line in result.stdout.splitlines()] == [1, 2, 3]
    assert (result.exit_code, pauses) == (130, [2])


def signing_in(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIFN_TOKEN")

    def give(request: httpx.Request) -> httpx.Response:
        form = dict(httpx.QueryParams(request.content.decode()))
        if form["persona"] == "nobody":
            return ONE(400, json={"error": "invalid_request", "error_description": "no persona 'nobody'; there are pi"})
        token = jwt(sub=form.get("subject", form["persona"]), name="Petra Principal", entitlements=["applicant"])
        return ONE(200, json={"access_token": token, "token_type": "Bearer", "expires_in": 3600})

    services.answer("POST", "127.0.0.1/token", give)


def test_one_signs_in_is_somebody_and_signs_out(
    services: Services, aifn: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing_in(services, monkeypatch)
    assert "sign in: aifn login --as pi" in aifn("whoami").stderr
    result = aifn("login", "--as", "pi", "--subject", "mari")
    assert result.stdout.startswith("signed in as mari (pi) until ")
    assert stat.S_IMODE((home / "token.json").stat().st_mode) == 0o600
    who = json.loads(aifn("whoami", "--json").stdout)
    assert (who["subject"], who["entitlements"], who["persona"]) == ("mari", ["applicant"], "pi")
    assert "Petra Principal" in aifn("whoami").stdout
    services.answer("GET", "registry/v1/machines", page())
    aifn("machine", "list")
    saved = json.loads((home / "token.json").read_text())["access_token"]
    assert services.requests[-1].headers["authorization"] == f"Bearer {saved}"
    assert aifn("logout").stdout == "signed out\n"
    assert aifn("logout").stdout == "you were not signed in\n"
    assert aifn("machine", "list").exit_code == 1


def test_an_expired_sign_in_says_how_to_renew_it_and_asks_no_service(
    services: Services, aifn: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing_in(services, monkeypatch)
    aifn("login")
    saved = json.loads((home / "token.json").read_text())
    (home / "token.json").write_text(json.dumps({**saved, "expires_at": "2026-01-01T00:00:00Z"}))
    before = len(services.requests)
    result = aifn("machine", "list")
    assert result.exit_code == 1
    assert "sign in again: aifn login --as pi" in result.stderr
    assert len(services.requests) == before


def test_the_issuer_says_which_personas_there_are(
    services: Services, aifn: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing_in(services, monkeypatch)
    result = aifn("login", "--as", "nobody")
    assert (result.exit_code, (home / "token.json").exists()) == (1, False)
    assert "there are pi" in result.stderr


def test_a_real_issuer_is_not_asked_for_a_persona(
    services: Services, aifn: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIFN_ISSUER", "https://login.example.eu")
    result = aifn("login", "--as", "pi")
    assert (result.exit_code, services.requests) == (1, [])
    assert "AIFN_TOKEN" in result.stderr


def test_the_version_is_said(aifn: Run) -> None:
    assert aifn("--version").stdout == "aifn 0.1.0\n"


def test_an_unknown_command_is_corrected(aifn: Run) -> None:
    result = aifn("machin", "list")
    assert result.exit_code == 2
    assert "machine" in result.stderr


def test_the_saved_context_of_a_launcher_is_all_a_command_needs(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIFN_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("AIFN_TOKEN", "opaque")
    monkeypatch.delenv("AIFN_URL_REGISTRY", raising=False)
    Context(factory="lumi-aif", issuer=ISSUER, services={"registry": "http://all-in-one.test/registry"}).save()
    services.answer("GET", "all-in-one/registry/v1/machines", page())
    result = CliRunner().invoke(app, ["machine", "list", "--json"], obj=httpx.MockTransport(services))
    assert (result.exit_code, result.stdout) == (0, "[]\n")
