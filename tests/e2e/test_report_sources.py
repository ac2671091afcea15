"""One experiment reported from the ledger, from Prometheus, from VictoriaMetrics and from the
collected PostgreSQL ledger: the same.

Time is virtual, all else is real: readings through the ledger and its store, the exposition as it
is scraped, a Prometheus and a VictoriaMetrics that hold the scrapes and answer the report's own
queries. "The same" is within the error that the report itself states, and never above a per mille.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.e2e.lab import Prometheus, get, until
from tests.e2e.test_cost_in_prometheus import HOUR_S, RATES, SCRAPE_S, T0_S, WANTED, fail
from tests.integration.postgresql import PostgreSql
from tests.integration.test_server import FakePages
from tests.ports import free_port

from joulebook.cli import main
from joulebook.clock import Anchor
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore
from joulebook.metrics.exposition import Exposition
from joulebook.metrics.snapshot import Snapshot
from joulebook.server.auth import PostingsPages, Tokens
from joulebook.server.server import Server
from joulebook.units import NS_PER_S

CARDS = tuple(Meter(Component.GPU, f"GPU-{n}") for n in range(3))
STEP_S, SPAN_S = 5, 2 * HOUR_S
IDLE_W = 60
MOST = 1e-3
"""The relative difference that is never exceeded where no run crosses an end of the range."""


class Job(NamedTuple):
    """Seconds of the span in which cards were held, and what each drew; `busy`: it did work."""

    name: str
    experiment: str
    cards: tuple[int, ...]
    t0_s: int
    t1_s: int
    watts: int
    busy: bool = True


JOBS = (
    Job("101", "bert", (0, 1), 600, 3000, 650),
    Job("102", "bert", (0,), 3100, 3900, 700),
    Job("103", "bert", (1,), 3200, 3205, 300),  # between two scrapes
    Job("104", "bert", (2,), 1000, 1600, 70, busy=False),
    Job("201", "other", (2,), 1800, 2800, 400),
    Job("301", "edge", (2,), 2900, 6000, 500),
)
BERT_J = 2 * 2400 * 650 + 800 * 700 + 5 * 300 + 600 * 70
EDGE_SINCE_S = 3600
"""The other range begins while job 301 runs."""


def drawn(card: int, second: int) -> Job | None:
    return next((j for j in JOBS if card in j.cards and j.t0_s <= second < j.t1_s), None)


def ticks() -> Iterator[Tick]:
    burnt_j = [10**6] * len(CARDS)
    busy = [False] * len(CARDS)
    for second in range(0, SPAN_S + 1, STEP_S):
        now_ns = (T0_S + second) * NS_PER_S
        live = [j for j in JOBS if j.t0_s <= second <= j.t1_s + 30]
        yield Tick(
            now_ns,
            readings=tuple(
                Reading(card, now_ns, burnt_j[n] * 10**6, epoch="boot", busy=busy[n])
                for n, card in enumerate(CARDS)
            ),
            claims=tuple(
                Claim(
                    WorkloadId("slurm", j.name),
                    CARDS[card],
                    (T0_S + j.t0_s) * NS_PER_S,
                    (T0_S + j.t1_s) * NS_PER_S if second >= j.t1_s else None,
                    Evidence.PROLOG,
                )
                for j in live
                for card in j.cards
            ),
            complete=frozenset({Evidence.PROLOG}),
            facts=tuple(
                WorkloadFacts(
                    WorkloadId("slurm", j.name),
                    name="train",
                    labels=Labels("ada", "nlp", j.experiment),
                    started_ns=(T0_S + j.t0_s) * NS_PER_S,
                    ended_ns=(T0_S + j.t1_s) * NS_PER_S if second >= j.t1_s else None,
                    complete=True,
                    gpu_count=len(j.cards),
                    evidence="prolog",
                    extra={"partition": "h100", "gpu_model": "NVIDIA H100"},
                )
                for j in live
            ),
            resumed=False,
            rates=RATES,
            wanted=WANTED,
            models=dict.fromkeys(CARDS, "NVIDIA H100"),
        )
        for n in range(len(CARDS)):
            job = drawn(n, second)
            burnt_j[n] += (IDLE_W if job is None else job.watts) * STEP_S
            busy[n] = job is not None and job.busy


def scrapes(ledger: Path) -> list[str]:
    """Play the span into a ledger; every scrape in the text format, with its time."""
    lines: dict[str, list[str]] = {}
    with closing(SqliteStore(ledger, allow_volatile=True)) as store:
        books, _ = store.load()
        exposition = Exposition(
            Snapshot("n1", books), lambda: (True, ""), lambda: (True, ""), on_error=fail
        )
        for tick in ticks():
            after, entry = advance(books, tick, BookingPolicy())
            store.commit(books, after, entry, Anchor("boot", 0, tick.now_ns))
            books = after
            if tick.now_ns // NS_PER_S % SCRAPE_S == 0:
                view = Snapshot("n1", books, now_ns=tick.now_ns, rates=RATES, charges=WANTED)
                exposition.publish(partial(msgspec.structs.replace, view))
                text, _ = exposition.metrics("application/openmetrics-text")
                for line in text.decode().splitlines():
                    if line.startswith("# EOF"):
                        continue
                    about = line.split()[2] if line[0] == "#" else line.partition("{")[0]
                    family = lines.setdefault(about.removesuffix("_total"), [])
                    if line[0] != "#":
                        family.append(f"{line} {tick.now_ns // NS_PER_S}")
                    elif line not in family:
                        family.append(line)
    return [line for family in lines.values() for line in family]


class Place(NamedTuple):
    """Where the same books can be asked for."""

    ledger: Path
    prometheus: str
    victoria: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("sources")
    lines = scrapes(home / "n1.db")
    (home / "all.om").write_text("\n".join(lines) + "\n# EOF\n")
    (home / "prom").mkdir()
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", home / "all.om",
         home / "prom/data"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    port = free_port()
    with (home / "victoria.log").open("wb") as log:
        victoria = subprocess.Popen(
            ["victoria-metrics", f"-storageDataPath={home}/victoria", "-retentionPeriod=100y",
             f"-httpListenAddr=127.0.0.1:{port}", "-search.latencyOffset=0s",
             "-memory.allowedBytes=256MiB"],
            stdout=log, stderr=log,
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            until("VictoriaMetrics", lambda: get(f"{url}/health")[0] == 200, 60)
            samples = [
                f"{line.rpartition(' ')[0]} {int(line.rpartition(' ')[2]) * 1000}"
                for line in lines
                if not line.startswith("#")
            ]
            body = "\n".join(samples).encode()
            with urllib.request.urlopen(f"{url}/api/v1/import/prometheus", body, 60) as answer:
                assert answer.status in (200, 204)
            get(f"{url}/internal/force_flush")
            with Prometheus(home / "prom") as prometheus:
                yield Place(home / "n1.db", f"http://127.0.0.1:{prometheus.port}", url)
        finally:
            victoria.terminate()
            victoria.wait(30)


def reported(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> Any:
    config = tmp_path / "joulebook.toml"
    config.write_text('[report]\nsacct = ""\n')
    command = ["--config", str(config), "report", "--format", "json", *arguments]
    assert main(command) == 0
    return json.loads(capsys.readouterr().out)


def range_of(t0_s: int, t1_s: int) -> tuple[str, ...]:
    from datetime import UTC, datetime

    ends = (datetime.fromtimestamp(T0_S + t, UTC).isoformat() for t in (t0_s, t1_s))
    return ("--since", next(ends), "--until", next(ends))


WHOLE = ("--experiment", "bert", *range_of(0, SPAN_S))


@pytest.mark.parametrize("kind", ["prometheus", "victoria"])
def test_the_ledger_and_prometheus_say_the_same(
    place: Place, kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ledger = reported(capsys, tmp_path, *WHOLE, "--ledger", str(place.ledger))
    seen = reported(capsys, tmp_path, *WHOLE, "--prometheus", getattr(place, kind))
    assert ledger["energy"]["gpu"]["value"] == pytest.approx(BERT_J / 3.6e6, abs=1e-12)
    stated = seen["quality"]["reading"]["value"] / 100
    assert 0 < stated < MOST
    assert ledger["quality"]["reading"]["value"] == 0
    for name in ("gpu", "idle", "it", "project", "sweep", "facility"):
        assert seen["energy"][name]["value"] == pytest.approx(
            ledger["energy"][name]["value"], rel=stated, abs=1e-6
        ), name
    assert seen["inventory"]["gpu_hours"]["value"] == pytest.approx(
        ledger["inventory"]["gpu_hours"]["value"], rel=MOST
    )
    kg = ("carbon", "location_based", "value")
    assert seen[kg[0]][kg[1]][kg[2]] == pytest.approx(ledger[kg[0]][kg[1]][kg[2]], rel=MOST)
    costs = {each["kind"]: each["cost"]["value"] for each in seen["cost"]}
    for each in ledger["cost"]:
        assert costs[each["kind"]] == pytest.approx(each["cost"]["value"], rel=MOST), each
    runs = {run["id"]: run for run in seen["runs"]}
    assert runs.keys() == {"101", "102", "103", "104"}
    for run in ledger["runs"]:
        # A floor of 1/64 J at each end weighs most in the run of 1.5 kJ.
        assert runs[run["id"]]["energy_kwh"] == pytest.approx(run["energy_kwh"], rel=MOST)
        assert runs[run["id"]]["gpus"] == run["gpus"]
        assert runs[run["id"]]["gpu_models"] == run["gpu_models"] == ["NVIDIA H100"]


@pytest.fixture(scope="module")
def collected(
    place: Place, postgresql: PostgreSql, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The URL of a PostgreSQL ledger, collected by the real command from a real server."""
    home = tmp_path_factory.mktemp("collected")
    (home / "token").write_text("0123456789abcdef-report")

    def page(since: int, ledger_id: str) -> bytes:
        with LedgerReader(place.ledger) as reader:
            return msgspec.json.encode(reader.page("n1", "", since, ledger_id, limit=100))

    server = Server("127.0.0.1:0", FakePages(), export=PostingsPages(page, Tokens(home / "token")))
    server.start()
    url = postgresql.new()
    (home / "joulebook.toml").write_text(
        f"[collect]\ntargets = ['127.0.0.1:{server.port}']\ntoken_file = '{home}/token'\n"
        f"url = '{url}'\n"
    )
    try:
        assert main(["--config", str(home / "joulebook.toml"), "collect", "--once"]) == 0
        assert main(["--config", str(home / "joulebook.toml"), "collect", "--check"]) == 0
    finally:
        server.stop()
    return url


@pytest.mark.parametrize(
    "asked", [WHOLE, ("--experiment", "edge", *range_of(EDGE_SINCE_S, SPAN_S)), range_of(0, SPAN_S)]
)
def test_the_collected_ledger_says_what_the_node_says(
    place: Place,
    collected: str,
    asked: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """To the last digit: both are what was booked. And Prometheus, which the test above holds to
    the ledger within the error that it states, is thereby held to the collected ledger too.
    """
    own = reported(capsys, tmp_path, *asked, "--ledger", str(place.ledger))
    found = reported(capsys, tmp_path, *asked, "--collected", collected)
    assert found["source"] == "collected ledger"
    # When each was made is of the clock, and a second may begin between them.
    found["made_utc"] = own["made_utc"]
    # What a node knows of its counters now is not collected, and the statement says so.
    assert found["quality"].pop("counters")["value"] is None
    del own["quality"]["counters"]
    assert found == json.loads(json.dumps(own).replace(own["source"], "collected ledger"))
    seen = reported(capsys, tmp_path, *WHOLE, "--prometheus", place.prometheus)
    stated = seen["quality"]["reading"]["value"] / 100
    if asked == WHOLE:
        assert seen["energy"]["it"]["value"] == pytest.approx(
            found["energy"]["it"]["value"], rel=stated
        )


def test_a_relabelled_run_is_counted_where_it_was_given_to(
    collected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, postgresql: PostgreSql
) -> None:
    config = tmp_path / "relabel.toml"
    config.write_text(f"[collect]\nurl = '{collected}'\n")
    why = "right \\name{}; $5 <b>"
    labels = ("--experiment", "other", "--by", "grace", "--why", why)
    assert main(["--config", str(config), "relabel", "103", *labels]) == 0
    capsys.readouterr()
    found = reported(capsys, tmp_path, *WHOLE, "--collected", collected)
    assert {run["id"] for run in found["runs"]} == {"101", "102", "104"}
    other = reported(
        capsys, tmp_path, "--experiment", "other", *WHOLE[2:], "--collected", collected
    )
    assert {run["id"] for run in other["runs"]} == {"103", "201"}
    said = json.dumps(other, ensure_ascii=False)
    assert "103 is counted under nlp/ada/other, was nlp/ada/bert" in said


def test_what_prometheus_cannot_know_is_said_by_name(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen = reported(capsys, tmp_path, *WHOLE, "--prometheus", place.prometheus)
    assert {"start and end of runs", "method", "coverage", "gaps"} <= seen["unknown"].keys()
    source = f"Prometheus at {place.prometheus}"
    assert seen["source"] == source
    unknown = seen["quality"]["coverage"]["unknown"]
    assert unknown.startswith(f"not known from {source}: ")
    assert seen["quality"]["attribution"]["unknown"].startswith(f"not known from {source}: ")
    assert [share["name"] for share in seen["quality"]["methods"]] == ["not known"]
    assert [share["name"] for share in seen["quality"]["evidence"]] == ["prolog"]
    rates = {each["quantity"]: each for each in seen["rates"]}
    assert rates["pue"]["mean"] == 1.25
    assert rates["pue"]["source"] == "room"
    assert (rates["carbon"]["low"], rates["carbon"]["high"]) == (250, 390)
    assert rates["carbon"]["quality"] == "not known"
    ledger = reported(capsys, tmp_path, *WHOLE, "--ledger", str(place.ledger))
    assert ledger["unknown"] == {}


@pytest.mark.parametrize("kind", ["prometheus", "victoria"])
def test_a_run_across_the_start_counts_from_there(
    place: Place, kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ("--experiment", "edge", *range_of(EDGE_SINCE_S, SPAN_S))
    ledger = reported(capsys, tmp_path, *asked, "--ledger", str(place.ledger))
    seen = reported(capsys, tmp_path, *asked, "--prometheus", getattr(place, kind))
    true_kwh = (6000 - EDGE_SINCE_S) * 500 / 3.6e6
    assert ledger["energy"]["it"]["value"] == pytest.approx(true_kwh, rel=1e-9)
    stated = seen["quality"]["reading"]["value"] / 100
    assert 0 < stated < 0.03
    assert seen["energy"]["it"]["value"] == pytest.approx(true_kwh, rel=stated)


@pytest.mark.parametrize("kind", ["prometheus", "victoria"])
def test_the_list_of_everything(
    place: Place, kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "joulebook.toml"
    config.write_text("")
    found = []
    for source in (("--ledger", str(place.ledger)), ("--prometheus", getattr(place, kind))):
        command = ["--config", str(config), "report", "--json", *range_of(0, SPAN_S), *source]
        assert main(command) == 0
        lines = json.loads(capsys.readouterr().out)["lines"]
        found.append(
            {line.get("experiment") or line["remainder"]: line["energy_kwh"] for line in lines}
        )
    ledger, seen = found
    assert {name for name, kwh in ledger.items() if kwh} == {"bert", "other", "edge", "unallocated"}
    for name, kwh in ledger.items():
        assert seen[name] == pytest.approx(kwh, rel=MOST), name
    new = config.with_name("new.toml")
    new.write_text("[rates]\npue = 1.1\n")
    command = ["--config", str(config), "report", "--json", *range_of(0, SPAN_S)]
    assert main([*command, "--prometheus", getattr(place, kind), "--rates", str(new)]) == 2
    assert "energy by quarter hour is not known from Prometheus" in capsys.readouterr().err


def test_an_error_of_the_server_is_told(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "joulebook.toml"
    config.write_text("")
    command = ["--config", str(config), "report", *range_of(0, SPAN_S), "--prometheus"]
    assert main([*command, f"{place.prometheus}/nowhere"]) == 2
    assert "not an answer of Prometheus's API: it returned status 404" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["prometheus", "victoria"])
def test_a_name_cannot_end_a_query(
    place: Place, kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = ('x"} or vector(1) #', "a|.*", "\\", "\x7f\n\u202e\U0001f525", "'")
    wanted = [word for name in names for word in ("--experiment", name)]
    for asked in (wanted, wanted[:2]):
        command = ["report", *asked, *WHOLE[2:], "--prometheus", getattr(place, kind)]
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "nothing was booked to it in this time" in said
        assert said.removesuffix("\n").isprintable()
