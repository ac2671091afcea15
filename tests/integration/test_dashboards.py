"""Every panel of every dashboard, against a real Prometheus and a real VictoriaMetrics that hold
two months of a simulated lab: none is empty, and what it shows is what was consumed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.lab.answers import COLUMNS, PANELS, RUN_COLUMNS, Window
from tests.lab.backfill import RULES, made
from tests.lab.grafana import (
    Chosen,
    asks,
    choices,
    clicked,
    dashboards,
    filled,
    links,
    opened,
    panels,
)
from tests.lab.servers import Server, prometheus, victoria
from tests.lab.truth import J_PER_KWH, truth
from tests.lab.world import (
    AWAY,
    CURRENCIES,
    DAY_S,
    DOWN,
    END_S,
    HOUR_S,
    JOBS,
    SCRAPE_S,
    START_S,
)

pytestmark = pytest.mark.timeout(600)

BOARDS = dashboards()
RANGES = {"1h": HOUR_S, "24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S}
RANGE = pytest.mark.parametrize("span_s", RANGES.values(), ids=RANGES)
SERVER = pytest.mark.parametrize("server", ["prometheus", "victoria-metrics"], indirect=True)
LAST_HOUR_S = END_S // HOUR_S * HOUR_S
"""When the rules of an hour were evaluated last."""

ERROR = {HOUR_S: 0.035, DAY_S: 0.002, 7 * DAY_S: 0.001, 30 * DAY_S: 0.002}
"""How far a total may be off: a scrape at either end of an hour is 3.3 % of it. Long ranges show
whole hours, and are compared with just those. The lab's older history is scraped seldom."""

GOOD_NEWS = {
    "Gaps", "Not charged", "Throttling", "Used without an allocation",
    "Xids by number", "Memory errors", "Link errors",
}  # fmt: skip
"""What may be empty: it says that all is well."""

RUNNING = next(job for job in JOBS if job.t0_s < END_S - 2 * HOUR_S and job.t1_s > END_S)


@pytest.fixture(scope="module")
def lab(build_dir: Path) -> Iterator[Mapping[str, Server]]:
    with made(build_dir) as home, victoria(home) as second, prometheus(home) as first:
        yield {server.name: server for server in (first, second)}


@pytest.fixture
def server(lab: Mapping[str, Server], request: pytest.FixtureRequest) -> Server:
    return lab[request.param]


def variables(
    uid: str, server: Server, span_s: int, at_s: int = END_S, **chosen: Chosen
) -> dict[str, Chosen]:
    """The variables as they stand on a dashboard that is just opened."""
    board = BOARDS[uid]
    values = opened(board)
    values["workload"] = RUNNING.id
    if "workload" in {v["name"] for v in board["templating"]["list"]}:
        values["cluster"] = (RUNNING.cluster,)
    return server.chosen(board, values | chosen, at_s, span_s, SCRAPE_S)


def shown(
    server: Server,
    uid: str,
    span_s: int,
    only: Container[str] = (),
    at_s: int = END_S,
    **chosen: Chosen,
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What the queries of a dashboard give, by panel and letter; of some panels, or of all."""
    values = variables(uid, server, span_s, at_s, **chosen)
    return {
        (ask.panel, ask.ref): server.answer(ask)
        for ask in asks(BOARDS[uid], values, at_s, span_s, SCRAPE_S)
        if not only or ask.panel in only
    }


def true_window(uid: str, title: str, span_s: int) -> Window:
    """The time that a panel speaks of; long ranges of what rules record end with an hour."""
    recorded = choices(BOARDS[uid]) and title not in ("Energy by node", "Each run")
    end_s = LAST_HOUR_S if span_s > 7 * DAY_S and recorded else END_S
    return Window(truth(), end_s - span_s, end_s)


def named(rows: list[dict[str, Any]], *labels: str) -> dict[str, float]:
    found = {}
    for row in rows:
        name = "/".join(row["metric"].get(label, "") for label in labels)
        assert name not in found
        found[name] = float(row["value"][1])
    return found


def same(found: Mapping[str, float], true: Mapping[str, float], error: float) -> None:
    """Each figure, and their sum: within the error, or (what hardly counts) 0.2 % of the sum."""
    total = sum(abs(value) for value in true.values())
    large = {name for name, value in true.items() if abs(value) > 0.02 * total}
    assert large <= found.keys()
    for name, value in found.items():
        slack = max(error * abs(true.get(name, 0.0)), max(error, 0.002) * total)
        assert abs(value - true.get(name, 0.0)) <= slack, (name, value, true.get(name))
    assert abs(sum(found.values()) - sum(true.values())) <= error * total + 1e-9


@SERVER
@RANGE
@pytest.mark.parametrize("uid", BOARDS)
def test_no_panel_is_empty(server: Server, uid: str, span_s: int) -> None:
    seen: dict[str, int] = {}
    for (panel, _), rows in shown(server, uid, span_s).items():
        seen[panel] = seen.get(panel, 0) + len(rows)
    assert {panel for panel, rows in seen.items() if not rows} <= GOOD_NEWS


@SERVER
@RANGE
@pytest.mark.parametrize("uid", sorted({uid for uid, _ in PANELS}))
def test_figures_are_true(server: Server, uid: str, span_s: int) -> None:
    found = shown(server, uid, span_s, {title for board, title in PANELS if board == uid})
    for (board, title), answer in PANELS.items():
        if board == uid:
            true = answer(true_window(uid, title, span_s))
            rows = found[title, "A"]
            labels = sorted({name for row in rows for name in row["metric"]})
            figures = named(rows, *labels)
            if len(true) == 1 and len(figures) == 1:
                true, figures = {"": sum(true.values())}, {"": sum(figures.values())}
            try:
                same(figures, true, ERROR[span_s])
            except AssertionError as error:
                raise AssertionError(f"{title}: {error}") from None


@SERVER
@RANGE
def test_the_table_of_experiments_is_true(server: Server, span_s: int) -> None:
    found = shown(server, "joulebook-lab", span_s, ["What each experiment cost"])
    for letter, column in zip("ABCD", ("Cost", "Energy", "CO2e", "GPU-hours"), strict=True):
        rows = found["What each experiment cost", letter]
        assert {row["metric"]["cluster"] for row in rows} == {"lab", "annex"}
        whose: dict[str, float] = {}
        for row in rows:  # a notebook of two users in two accounts is two experiments
            name = "/".join(row["metric"][label] for label in ("cluster", "account", "experiment"))
            whose[name] = whose.get(name, 0.0) + float(row["value"][1])
        true = COLUMNS[column](true_window("joulebook-lab", "", span_s))
        same(whose, true, ERROR[span_s])


@SERVER
@RANGE
def test_the_table_of_runs_is_true(server: Server, span_s: int) -> None:
    """Jobs of a few seconds between two scrapes, and jobs that began before the range, too."""
    found = shown(server, "joulebook-experiment", span_s, ["Each run"])
    for letter, column in zip("CDEF", RUN_COLUMNS, strict=True):
        true = RUN_COLUMNS[column](true_window("joulebook-experiment", "Each run", span_s))
        rows = named(found["Each run", letter], "cluster", "workload")
        same(_seen_to_end(rows), _seen_to_end(true), ERROR[span_s])
    short = {f"lab/{j.id}" for j in JOBS if j.owner.experiment == "tokenizer-tests"}
    energy = named(found["Each run", "D"], "cluster", "workload")
    true = RUN_COLUMNS["Energy"](true_window("joulebook-experiment", "Each run", span_s))
    for name in short & energy.keys():
        assert energy[name] == pytest.approx(true.get(name, 0.0), rel=0.001, abs=1e-6)


def _seen_to_end(runs: Mapping[str, float]) -> dict[str, float]:
    """Without those that ended while Prometheus was down, as the panel says."""
    unseen = {f"{j.cluster}/{j.id}" for j in JOBS if AWAY[0] - 900 < j.t1_s < AWAY[1]}
    return {name: value for name, value in runs.items() if name not in unseen}


@SERVER
@RANGE
def test_one_run_is_true(server: Server, span_s: int) -> None:
    found = shown(server, "joulebook-workload", span_s, ["Energy", "Cost"])
    window = Window(truth(), END_S - span_s, END_S)
    scrape = 2 * SCRAPE_S / (END_S - RUNNING.t0_s)  # it still runs: what is not yet scraped
    run = f"{RUNNING.cluster}/{RUNNING.id}"
    energy = RUN_COLUMNS["Energy"](window)[run]
    error = ERROR[span_s] + scrape
    assert named(found["Energy", "A"])[""] == pytest.approx(energy, rel=error)
    cost = RUN_COLUMNS["Cost"](window)[run]
    assert named(found["Cost", "A"], "currency")[CURRENCIES[RUNNING.cluster]] == pytest.approx(
        cost, rel=error
    )


@SERVER
@RANGE
def test_the_books_balance(server: Server, span_s: int) -> None:
    """What experiments used and what nobody did is what the meters read."""
    found = shown(
        server, "joulebook-books", span_s, ["Not in the books", "Not in the books, by node"]
    )
    assert named(found["Not in the books", "A"])[""] < 1e-5
    for row in found["Not in the books, by node", "A"]:
        off = sorted(abs(float(value)) for _, value in row["values"])
        # Files of samples have no stale markers: what has left is seen for 5 minutes more.
        assert off[len(off) * 9 // 10] < 100
    lab = shown(server, "joulebook-lab", span_s, ["Energy", "Unattributed"])
    (used,) = named(lab["Energy", "A"]).values()
    (nobody,) = named(lab["Unattributed", "A"]).values()
    meters = true_window("joulebook-lab", "", span_s).kwh("meter")[""]
    assert used / (1 - nobody) == pytest.approx(meters, rel=min(ERROR[span_s], 0.005))


@SERVER
@RANGE
def test_the_area_under_the_power_is_the_energy(server: Server, span_s: int) -> None:
    values = variables("joulebook-lab", server, span_s)
    joules = 0.0
    t0_s = t1_s = 0
    for ask in asks(BOARDS["joulebook-lab"], values, END_S, span_s, SCRAPE_S):
        if ask.panel == "Power by account":
            for row in server.answer(ask):
                joules += sum(float(v) for t, v in row["values"] if t > ask.start_s) * ask.step_s
                t0_s, t1_s = ask.start_s, ask.end_s
    true = Window(truth(), t0_s, t1_s).kwh("meter")[""]
    # What an experiment used that has just come back is still held, and pending.
    assert joules / J_PER_KWH == pytest.approx(true, rel=max(1.5 * ERROR[span_s], 0.015))


@SERVER
def test_compute_is_true(server: Server) -> None:
    found = shown(server, "joulebook-compute", 30 * DAY_S)
    rows = found["PFLOP/s-days in the range", "A"]
    window = Window(truth(), END_S - 30 * DAY_S, END_S)
    assert sum(named(rows, "account").values()) == pytest.approx(window.pflops_days(), rel=0.01)
    for title in ("GPU-hours double in", "Energy doubles in", "Compute doubles in"):
        (days,) = named(found[title, "A"]).values()
        assert 10 * DAY_S < days < 400 * DAY_S, "the lab grows"


@SERVER
def test_month_by_month(server: Server) -> None:
    found = shown(server, "joulebook-compute", 30 * DAY_S)
    hours = sum(float(row["values"][-1][1]) for row in found["GPU-hours by month", "A"])
    end_s = int(found["GPU-hours by month", "A"][0]["values"][-1][0])
    window = Window(truth(), end_s - 30 * DAY_S, end_s)
    assert hours == pytest.approx(window.sum("experiment_gpu_seconds") / 3600, rel=0.002)


@SERVER
def test_choosing_narrows_it_down(server: Server) -> None:
    window = true_window("joulebook-lab", "", 30 * DAY_S)
    energy = COLUMNS["Energy"](window)
    odd, plain = "sim2real (v2.1+dr)", "llm-pretrain"
    for chosen, wanted in (
        ((odd,), energy[f"annex/robotics/{odd}"]),
        ((odd, plain), energy[f"annex/robotics/{odd}"] + energy[f"lab/nlp/{plain}"]),
        (("sim2real .v2.1+dr.",), None),
    ):
        found = shown(server, "joulebook-lab", 30 * DAY_S, ["Energy"], experiment=chosen)
        figures = named(found["Energy", "A"])
        assert figures == ({"": pytest.approx(wanted, rel=0.001)} if wanted else {})
    nothing = shown(server, "joulebook-lab", 30 * DAY_S, ["Energy"], cluster=("another",))
    assert nothing["Energy", "A"] == []


def link_of(uid: str, title: str, target: str) -> str:
    """The address that a click on a panel leads to, on another dashboard."""
    (panel,) = (panel for panel in panels(BOARDS[uid]) if panel["title"] == title)
    (url,) = (link["url"] for link in links(panel) if link["url"].startswith(f"/d/{target}?"))
    return url


def figure(rows: list[dict[str, Any]]) -> float:
    return sum(named(rows, *sorted({name for row in rows for name in row["metric"]})).values())


@SERVER
@pytest.mark.parametrize("span_s", [DAY_S, 30 * DAY_S], ids=["24h", "30d"])
def test_a_click_on_an_experiment_shows_what_its_row_says(server: Server, span_s: int) -> None:
    """Also of one that is in two clusters, and of one with all sorts of characters in its name; and
    the pages of all experiments come to what the lab's page says.
    """
    titles = ("Energy", "Cost", "CO2e", "GPU-hours")
    lab = shown(server, "joulebook-lab", span_s, [*titles, "What each experiment cost"])
    url = link_of("joulebook-lab", "What each experiment cost", "joulebook-experiment")
    of_pages = dict.fromkeys(titles, 0.0)
    rows = lab["What each experiment cost", "B"]
    names = [(row["metric"]["cluster"], row["metric"]["experiment"]) for row in rows]
    assert {("lab", "vit-sweep"), ("annex", "vit-sweep")} <= set(names)
    assert span_s == DAY_S or ("annex", "sim2real (v2.1+dr)") in names
    for row in rows:
        chosen = clicked(url, row["metric"], {})
        page = shown(server, "joulebook-experiment", span_s, titles, END_S, **chosen)
        (energy,) = named(page["Energy", "A"]).values()
        assert energy == pytest.approx(float(row["value"][1]), rel=1e-9)
        for title in of_pages:
            of_pages[title] += figure(page[title, "A"])
    for title, total in of_pages.items():
        assert total == pytest.approx(figure(lab[title, "A"]), rel=1e-6), title


@SERVER
def test_a_click_on_a_run_shows_that_of_its_cluster(server: Server) -> None:
    """Schedulers number their jobs from 1, each of them."""
    rows = shown(server, "joulebook-experiment", 30 * DAY_S, ["Each run"])["Each run", "D"]
    url = link_of("joulebook-experiment", "Each run", "joulebook-workload")
    energy = named(rows, "cluster", "workload")
    annex = {name.removeprefix("annex/") for name in energy if name.startswith("annex/")}
    twice = [f"{cluster}/{name}" for name in annex for cluster in CURRENCIES
        if f"lab/{name}" in energy]  # fmt: skip
    assert twice
    for row in rows:
        if f"{row['metric']['cluster']}/{row['metric']['workload']}" == twice[0]:
            chosen = clicked(url, row["metric"], {})
            chosen["workload"] = "".join(chosen["workload"])  # a box to type into
            page = shown(server, "joulebook-workload", 30 * DAY_S, ["Energy"], END_S, **chosen)
            assert named(page["Energy", "A"])[""] == pytest.approx(energy[twice[0]], rel=1e-9)


@SERVER
@pytest.mark.parametrize("uid", ["joulebook-lab", "joulebook-waste"])
def test_rules_of_5_minutes_are_true(server: Server, uid: str) -> None:
    """What a large lab reads in short ranges: of 5 minutes up to some instant in the last 5."""
    values = variables(uid, server, DAY_S, use="increase5m", step="5m")
    window = Window(truth(), END_S - DAY_S, END_S)
    for ask in asks(BOARDS[uid], values, END_S, DAY_S, SCRAPE_S):
        answer = PANELS.get((uid, ask.panel))
        if answer is not None and ask.ref == "A":
            rows = server.answer(ask)
            found = sum(float(row["value"][1]) for row in rows)
            assert found == pytest.approx(sum(answer(window).values()), rel=0.01), ask.panel


def test_victoria_metrics_takes_the_rules_as_they_are() -> None:
    """vmalert, which works them out there, parses every rule and template."""
    for name in ("recording", "alerts"):
        done = subprocess.run(
            ["vmalert", "-dryRun", f"-rule={RULES.with_name(f'{name}.rules.yaml')}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def use(
    server: Server, span_s: int, changed: Mapping[str, str] | None = None, at_s: int = END_S
) -> str:
    """What Lab overview reads; `changed` are other texts for parts of the question."""
    expression = choices(BOARDS["joulebook-lab"])["use"]
    for old, new in (changed or {}).items():
        assert old in expression
        expression = expression.replace(old, new)
    (found,) = server.instant(filled(expression, {}, span_s, 60, SCRAPE_S), at_s)
    chosen: str = found["metric"]["use"]
    return chosen


@SERVER
def test_what_is_much_is_read_from_rules_and_what_is_little_from_counters(server: Server) -> None:
    assert use(server, DAY_S) == "total"
    assert use(server, 7 * DAY_S) == "total"
    assert use(server, 30 * DAY_S) == "increase1h"
    large = {"> 2e7": "> 1e3"}  # a large lab
    assert use(server, HOUR_S, large) == "increase5m"
    assert use(server, DAY_S, large) == "increase5m"
    assert use(server, 7 * DAY_S, large) == "increase1h"


@SERVER
def test_rules_with_a_hole_are_not_read(server: Server) -> None:
    """Not evaluated for four hours, begun late, or written by two Prometheis: counters know."""
    rule = "rules:joulebook_covered_seconds:increase1h[$__range]"
    since = "rules:joulebook_covered_seconds:increase1h[15d]"
    hole = {f"sum_over_time({rule})": f"(sum_over_time({rule}) - 4 * 3600)"}
    late = {f"sum_over_time({rule})": f"sum_over_time({since})"}
    twice = {f"count_over_time({rule})": f"(2 * count_over_time({rule}))"}
    for changed in (hole, late, twice):
        assert use(server, 30 * DAY_S, changed) == "total"


@SERVER
def test_without_rules_long_ranges_read_counters(server: Server) -> None:
    """Before the lab's first hour of rules: a fresh Prometheus that has just been set up."""
    assert use(server, 30 * DAY_S, at_s=1_700_000_000) == "total"


@SERVER
@RANGE
@pytest.mark.parametrize("uid", BOARDS)
def test_before_the_data_panels_are_empty_and_no_query_fails(
    server: Server, uid: str, span_s: int
) -> None:
    """Also those of a Prometheus without a rule; what says 0 says that it counted none."""
    for (panel, _), rows in shown(server, uid, span_s, at_s=START_S - DAY_S).items():
        for row in rows:
            values = [value for _, value in row.get("values", [row.get("value")])]
            assert {float(value) for value in values} <= {0.0}, panel


@SERVER
@RANGE
def test_a_range_that_began_before_the_data_shows_all_there_was(
    server: Server, span_s: int
) -> None:
    """A fresh ledger and a fresh Prometheus, two hours old; it was scraped every 5 minutes."""
    at_s = START_S + 2 * HOUR_S
    window = Window(truth(), max(START_S, at_s - span_s), at_s)
    # What is new is held back for 2.5 scrapes, and the last one is up to 5 minutes old.
    slack = 4 * 300 / (at_s - window.t0_s)
    for uid, titles in (
        ("joulebook-lab", ("Energy", "Cost", "CO2e", "GPU-hours")),
        ("joulebook-waste", ("Unallocated", "Unallocated GPU-hours", "Cost of unallocated GPUs")),
    ):
        found = shown(server, uid, span_s, titles, at_s=at_s)
        for title in titles:
            true = sum(PANELS[uid, title](window).values())
            assert figure(found[title, "A"]) == pytest.approx(true, rel=slack), title


@SERVER
@pytest.mark.parametrize("span_s", [DAY_S, 7 * DAY_S], ids=["24h", "7d"])
@pytest.mark.parametrize("began_s", [-HOUR_S, HOUR_S, 7 * HOUR_S], ids=["before", "in", "after"])
def test_ranges_at_the_edges_of_an_outage(server: Server, span_s: int, began_s: int) -> None:
    """One that begins in an outage of Prometheus begins with its end: nothing before is known."""
    t0_s = AWAY[0] + began_s
    found = shown(server, "joulebook-lab", span_s, ["Energy", "Cost"], at_s=t0_s + span_s)
    known_s = AWAY[1] if AWAY[0] <= t0_s < AWAY[1] else t0_s
    window = Window(truth(), known_s, t0_s + span_s)
    for title in ("Energy", "Cost"):
        true = sum(PANELS["joulebook-lab", title](window).values())
        assert figure(found[title, "A"]) == pytest.approx(true, rel=0.01), title


@SERVER
def test_runs_over_a_range_that_begins_in_a_scrape_gap(server: Server) -> None:
    """A daemon restarted there: a run that went on counts from the first scrape after it."""
    down = DOWN["lab/gpu-02"][0]
    span_s = 6 * HOUR_S
    t0_s = down[0] + 200
    found = shown(server, "joulebook-experiment", span_s, ["Each run"], at_s=t0_s + span_s)[
        "Each run", "D"
    ]
    true = RUN_COLUMNS["Energy"](Window(truth(), t0_s, t0_s + span_s))
    energy = named(found, "cluster", "workload")
    # A scrape is four minutes then; what was used in the gap itself is in doubt.
    assert sum(energy.values()) == pytest.approx(sum(true.values()), rel=0.03)
    for name, joules in energy.items():
        assert joules <= true.get(name, 0.0) * 1.05 + 0.5, name


@SERVER
@pytest.mark.parametrize("span_s", [DAY_S, 7 * DAY_S, 30 * DAY_S], ids=["24h", "7d", "30d"])
@pytest.mark.parametrize("offset_h", [0, 1, -5], ids=["London", "Berlin", "Boston"])
def test_days_are_those_of_the_range(server: Server, span_s: int, offset_h: int) -> None:
    """From the midnight at or before its begin to today, each bar a day of the browser's."""
    values = variables("joulebook-lab", server, span_s, currency=("EUR",))
    board = BOARDS["joulebook-lab"]
    bars: dict[int, float] = {}
    for ask in asks(board, values, END_S, span_s, SCRAPE_S, offset_h * HOUR_S):
        if ask.panel == "Energy by day":
            for row in server.answer(ask):
                for t_s, value in row["values"]:
                    bars[int(t_s)] = bars.get(int(t_s), 0.0) + float(value)
    first_s = (END_S - span_s + offset_h * HOUR_S) // DAY_S * DAY_S - offset_h * HOUR_S
    assert sorted(bars) == list(range(first_s, END_S, DAY_S))
    by_hours = values["use"] == "increase1h"  # of which the last and the first may be cut
    for t_s, kwh in bars.items():
        true = Window(truth(), t_s, min(t_s + DAY_S, END_S)).kwh("experiment")[""]
        assert kwh == pytest.approx(true, rel=0.01, abs=3.5 if by_hours else 0), t_s
    whole = Window(truth(), first_s, END_S).kwh("experiment")[""]
    assert sum(bars.values()) == pytest.approx(whole, rel=0.005)
