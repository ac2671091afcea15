"""How long dashboards and rules take in a lab of 1,000 nodes.

The series are those of 1,000 nodes and 20,000 jobs a day, by 200 people with five experiments each:
the rules of an hour for 31 days and of 5 minutes for 25 hours, an hour of the counters and gauges
that panels could touch, and 600 runs of one experiment in a week. Rules are evaluated over a day of
counters of some nodes, scraped every 15 s, and what they take is multiplied. Measured is the CPU
time of a real Prometheus and a real VictoriaMetrics: what they would need on one core of their own.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dashboards.generator.recording import SUMS, rate_rule
from tests.lab.backfill import promtool, records, send
from tests.lab.grafana import asks, dashboards, filled, listed, opened
from tests.lab.servers import Server, prometheus, victoria

from benchmarks.machine import cpu_ns
from benchmarks.scrape import exposed
from benchmarks.table import Table, median

NODES, EXPERIMENTS, ON_A_NODE, RUNS = 1_000, 1_000, 10, 600
EVALUATED, SCRAPE_S = 10, 15
"""How many nodes rules are evaluated over, and how often these are scraped."""
ACCOUNTS, USERS = 40, 200
END_S = 1_740_996_000
"""2025-03-03 10:00 UTC."""
HOUR_S, DAY_S = 3_600, 86_400
INTERVALS = {
    "1h": range(END_S - 31 * DAY_S, END_S + 1, HOUR_S),
    "5m": range(END_S - 25 * HOUR_S, END_S + 1, 300),
}
LAST_HOUR = range(END_S - HOUR_S, END_S + 1, 60)
LAST_DAY = range(END_S - 26 * HOUR_S, END_S + 1, SCRAPE_S)
GPUS = 8
RATES = {
    "electricity_price_per_kwh": {"currency": "EUR"},
    "carbon_intensity_grams_per_kwh": {"zone": "DE"},
    "pue_ratio": {},
}
REASONS = ("unallocated", "system", "daemon_down", "unknown_holder", "counter_reset")
ASKED = (
    ("joulebook-lab", "30 d", 30 * DAY_S, 1.0),
    ("joulebook-lab", "24 h", DAY_S, 2.0),
    ("joulebook-lab", "1 h", HOUR_S, 2.0),
    ("joulebook-waste", "30 d", 30 * DAY_S, 3.0),
    ("joulebook-compute", "30 d", 30 * DAY_S, 3.0),
    ("joulebook-experiment", "7 d", 7 * DAY_S, 3.0),
)
"""Dashboards, ranges, and how many seconds their queries may take one after another."""
SHARE = 0.2
"""How much of its interval a group of rules may take."""


class Series(NamedTuple):
    """A series: its name and labels, when, and by how much it grows from sample to sample.

    A rule (`grows` false) has the same value all along, give or take a twentieth.
    """

    name: str
    labels: dict[str, str]
    times: Sequence[int]
    step: int
    grows: bool = False

    @property
    def values(self) -> list[int]:
        """The values."""
        if self.grows:
            return [self.step * n for n in range(len(self.times))]
        return [self.step + n * 7919 % (self.step // 20 + 1) for n in range(len(self.times))]


def rules(experiments: int, nodes: int) -> Iterator[Series]:
    """What the rules of an hour and of 5 minutes recorded."""
    lab = {"cluster": "lab"}
    for interval, times in INTERVALS.items():
        seconds = times.step
        rule = f"{{}}:joulebook_{{}}:increase{interval}".format
        yield Series(rule("rules", "covered_seconds"), {}, times, seconds)
        for number in range(experiments):
            yield from _used(rule, "experiment", _who(number), times, 1)
            yield from _summed(rule, "owner", _who(number), times, 1)
        for number in range(USERS):
            user = {name: _who(number)[name] for name in ("cluster", "account", "user")}
            yield from _summed(rule, "user", user, times, experiments // USERS)
        for number in range(ACCOUNTS):
            of = {**lab, "account": f"account{number}"}
            yield from _used(rule, "account", of, times, experiments // ACCOUNTS)
            if interval == "1h":
                yield Series("account:joulebook_compute_flop:increase1h", of, times, 10**15)
        for component in ("gpu", "cpu"):
            of = {**lab, "component": component}
            yield Series(rule("meter", "energy_joules"), of, times, 1_500_000 * seconds)
            for reason in REASONS:
                of_reason = {**of, "reason": reason}
                yield Series(rule("remainder", "energy_joules"), of_reason, times, 9_000 * seconds)
        nobody = {"reason": "unallocated"}
        yield Series(rule("remainder", "gpu_seconds"), {**lab, **nobody}, times, 500 * seconds)
        for number in range(nodes):
            for kind in ("electricity", "hardware"):
                paid = {**_where(number), **nobody, "kind": kind, "currency": "EUR"}
                yield Series(rule("remainder", "cost"), paid, times, seconds // 90)
    for what, of in RATES.items():
        month = range(INTERVALS["1h"].start, END_S + 1, INTERVALS["5m"].step)
        yield Series(rate_rule(what), {**lab, **of}, month, 2)


def _used(
    rule: Callable[[str, str], str], level: str, who: dict[str, str], times: range, several: int
) -> Iterator[Series]:
    """What was used by one experiment, or by `several` of an account."""
    each = several * times.step
    for component in ("gpu", "cpu"):
        yield Series(
            rule(level, "energy_joules"), {**who, "component": component}, times, each * 25
        )
    yield Series(rule(level, "idle_energy_joules"), {**who, "component": "gpu"}, times, each * 3)
    for what in ("gpu_seconds", "idle_gpu_seconds", "co2e_grams"):
        yield Series(rule(level, what), who, times, each // 4)
    for what in ("cost", "idle_cost"):
        for kind in ("electricity", "hardware"):
            paid = {**who, "kind": kind, "currency": "EUR"}
            yield Series(rule(level, what), paid, times, each // 90)


def _summed(
    rule: Callable[[str, str], str], level: str, who: dict[str, str], times: range, several: int
) -> Iterator[Series]:
    """The same without its parts."""
    for what in SUMS[level].whats:
        of = {**who, "currency": "EUR"} if what.endswith("cost") else who
        yield Series(rule(level, what), of, times, several * times.step)


def _who(number: int) -> dict[str, str]:
    return {
        "cluster": "lab",
        "user": f"user{number % USERS}",
        "account": f"account{number % ACCOUNTS}",
        "experiment": f"experiment-{number}",
    }


def _where(number: int) -> dict[str, str]:
    return {"cluster": "lab", "node": f"node-{number:03}"}


def counters(nodes: int, times: Sequence[int]) -> Iterator[Series]:
    """What nodes expose, as far as panels and rules read it."""
    for number in range(nodes):
        where = _where(number)
        for n in range(ON_A_NODE):
            who = {**where, **_who((number * ON_A_NODE + n) % EXPERIMENTS)}
            name = "joulebook_experiment_{}_total".format
            for component in ("gpu", "cpu"):
                of = {**who, "component": component}
                yield Series(name("energy_joules"), of, times, 900, grows=True)
            of = {**who, "component": "gpu"}
            yield Series(name("idle_energy_joules"), of, times, 90, grows=True)
            for what in ("gpu_seconds", "idle_gpu_seconds", "co2e_grams"):
                yield Series(name(what), who, times, 10, grows=True)
            for what in ("cost", "idle_cost"):
                for kind in ("electricity", "hardware"):
                    paid = {**who, "kind": kind, "currency": "EUR"}
                    yield Series(name(what), paid, times, 2, grows=True)
        for meter in range(10):
            of = {**where, "component": "gpu", "meter": f"GPU-{meter}"}
            yield Series("joulebook_meter_energy_joules_total", of, times, 9_000, grows=True)
        for reason in REASONS:
            name = "joulebook_remainder_{}_total".format
            of = {**where, "reason": reason}
            for component in ("gpu", "cpu"):
                part = {**of, "component": component}
                yield Series(name("energy_joules"), part, times, 900, grows=True)
            yield Series(name("gpu_seconds"), of, times, 1, grows=True)
            for kind in ("electricity", "hardware"):
                paid = {**of, "kind": kind, "currency": "EUR"}
                yield Series(name("cost"), paid, times, 1, grows=True)
        yield Series("joulebook_build_info", where, times, 1)
        for what, of in RATES.items():
            yield Series(f"joulebook_{what}", {**where, **of}, times, 2)
        for gpu in range(GPUS):
            card = {**where, "gpu": f"{gpu}", "uuid": f"GPU-{number}-{gpu}"}
            yield Series("joulebook_gpu_utilization_ratio", card, times, 1)
            job = {"scheduler": "slurm", "workload": f"{number * GPUS + gpu}"}
            held = {**card, **_who((number * ON_A_NODE + gpu) % EXPERIMENTS), **job}
            yield Series("joulebook_gpu_held_ratio", held, times, 1)


def runs(count: int) -> Iterator[Series]:
    """Runs of one experiment in a week, of two hours each."""
    for number in range(count):
        first = END_S - 7 * DAY_S + number * 900
        times = range(first, min(first + 2 * HOUR_S, END_S), 60)
        who = {**_where(number % 10), **_who(0), "scheduler": "slurm", "workload": f"{number}"}
        name = "joulebook_workload_{}_total".format
        card = {"gpu": "0", "uuid": f"GPU-{number % 10}"}
        yield Series("joulebook_gpu_held_ratio", {**who, **card}, times, 1)
        for what in ("energy_joules", "idle_energy_joules"):
            yield Series(name(what), {**who, "component": "gpu"}, times, 900, grows=True)
        for what in ("gpu_seconds", "co2e_grams"):
            yield Series(name(what), who, times, 60, grows=True)
        for kind in ("electricity", "hardware"):
            paid = {**who, "kind": kind, "currency": "EUR"}
            yield Series(name("cost"), paid, times, 1, grows=True)


def fill(home: Path, into: Server, series: Iterator[Series]) -> tuple[int, int]:
    """Put it into both; how many series and samples that were."""
    count = samples = 0
    home.mkdir(exist_ok=True)
    text = home / "lab.om"
    lines: list[str] = []
    with text.open("w") as file:
        for one in series:
            count, samples = count + 1, samples + len(one.times)
            labels = ",".join(f'{name}="{value}"' for name, value in one.labels.items())
            prefix = f"{one.name}{{{labels}}} "
            pairs = zip(one.times, one.values, strict=True)
            file.write("".join([f"{prefix}{value} {t_s}\n" for t_s, value in pairs]))
            names = {"__name__": one.name, **one.labels}
            metric = ",".join(f'"{name}":"{value}"' for name, value in names.items())
            stamps = ",".join([f"{t_s}000" for t_s in one.times])
            lines.append(f'{{"metric":{{{metric}}},"values":{one.values},"timestamps":[{stamps}]}}')
            if len(lines) >= 2_000:
                send(into.url, "\n".join(lines).encode())
                lines.clear()
        file.write("# EOF\n")
    send(into.url, "\n".join(lines).encode())
    promtool(
        "tsdb", "create-blocks-from", "openmetrics", "-q", "--max-block-duration=1440h",
        text, home / "made",
    )  # fmt: skip
    text.unlink()
    (home / "data").mkdir(exist_ok=True)
    for block in (home / "made").iterdir():
        shutil.move(block, home / "data" / block.name)
    return count, samples


def timed(server: Server, uid: str, span_s: int, tries: int) -> float:
    """CPU seconds that a dashboard takes, all its queries and the lists of its variables: the
    median of `tries`.
    """
    board = dashboards()[uid]
    values = opened(board)
    if uid == "joulebook-experiment":
        values["experiment"] = ("experiment-0",)
    took = []
    for _ in range(tries):
        began = cpu_ns(server.pid)
        for metric, label in listed(board):
            server.values(filled(metric, values, span_s, 60, 60), label, END_S - span_s, END_S)
        chosen = server.chosen(board, values, END_S, span_s, 60)
        for ask in asks(board, chosen, END_S, span_s, 60):
            server.answer(ask)
        took.append((cpu_ns(server.pid) - began) / 1e9)
    return median(took)


def evaluated(server: Server, *, of_rules: bool = False) -> dict[str, float]:
    """CPU seconds that the rules of each interval take that read counters, or what was recorded."""
    took = dict.fromkeys(INTERVALS, 0.0)
    names = {rule["record"] for rule in records()}
    for rule in records():
        if any(name in rule["expr"] for name in names - {rule["record"]}) is not of_rules:
            continue
        interval = "5m" if rule["record"].endswith(("5m", ":avg")) else "1h"
        began = cpu_ns(server.pid)
        server.instant(rule["expr"], END_S)
        took[interval] += (cpu_ns(server.pid) - began) / 1e9
    return took


def panels(home: Path, share: int) -> Table:
    """The table of dashboards."""
    nodes, experiments = NODES // share, EXPERIMENTS // share
    found: dict[str, list[float]] = {}
    sums: dict[str, float] = {}
    with victoria(home) as second:
        parts = (rules(experiments, nodes), counters(nodes, LAST_HOUR), runs(RUNS // share))
        filled_with = [fill(home, second, part) for part in parts]
        with prometheus(home) as first:
            for server in (first, second):
                found[server.name] = [timed(server, uid, span, 3) for uid, _, span, _ in ASKED]
                sums[server.name] = evaluated(server, of_rules=True)["5m"]
    series, samples = (sum(n) for n in zip(*filled_with, strict=True))
    table = Table(
        f"Dashboards: {nodes:,} nodes, {experiments:,} experiments",
        ["dashboard", "range", "aim s", *(f"{name} CPU s" for name in found)],
    )
    for n, (uid, span, _, aim_s) in enumerate(ASKED):
        table.add(uid, span, aim_s, *(took[n] for took in found.values()))
    table.notes.append(
        f"{series:,} series, {samples:,} samples; all queries of a dashboard, its variables too; "
        "the median of 3"
    )
    table.notes.append(
        "rules of 5 minutes that sum what was recorded, once: "
        + ", ".join(f"{name} {took:.2f} CPU s" for name, took in sums.items())
    )
    return table


def groups(home: Path, share: int) -> Table:
    """The table of rules."""
    nodes = max(2, EVALUATED // share)
    found: dict[str, dict[str, float]] = {}
    with victoria(home) as second:
        series, samples = fill(home, second, counters(nodes, LAST_DAY))
        with prometheus(home) as first:
            for server in (first, second):
                evaluated(server)
                found[server.name] = evaluated(server)
    table = Table(
        f"Recording rules of {NODES:,} nodes, from {nodes}",
        ["interval", "aim s", *(f"{name} CPU s" for name in found)],
    )
    for interval, times in INTERVALS.items():
        took = (each[interval] * NODES / nodes for each in found.values())
        table.add(interval, SHARE * times.step, *took)
    table.notes.append(f"{series:,} series, {samples:,} samples at {SCRAPE_S} s, for a day")
    return table


def run(args: argparse.Namespace) -> list[Table]:
    """The tables."""
    share = 10 if args.quick else 1
    with tempfile.TemporaryDirectory(dir=".build") as scratch:
        home = Path(scratch).resolve()
        return [exposed(), groups(home / "rules", share), panels(home / "panels", share)]
