"""How long the queries of Lab overview take over 30 days in a lab of 200 nodes.

The series are those of 200 nodes and 20,000 jobs a day, by 200 people with five experiments each
(600 runs of each in a month): the rules of an hour for 31 days, and beside them an hour of counters
of experiments and workloads, which long ranges must not touch. Measured are a real Prometheus and a
real VictoriaMetrics, both on the core that is not ours.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.lab.backfill import promtool, send
from tests.lab.grafana import asks, choice, dashboards, filled
from tests.lab.servers import Server, prometheus, victoria

from benchmarks.machine import pin
from benchmarks.table import Table, median

NODES, EXPERIMENTS, ON_A_NODE, JOBS_AN_HOUR = 200, 1_000, 50, 833
ACCOUNTS, USERS = 40, 200
END_S = 1_740_996_000
"""2025-03-03 10:00 UTC."""
HOUR_S, DAY_S = 3_600, 86_400
HOURS = range(END_S - 31 * DAY_S, END_S + 1, HOUR_S)
LAST_HOUR = range(END_S - HOUR_S, END_S + 1, 60)
REASONS = ("unallocated", "system", "daemon_down", "unknown_holder", "counter_reset")
AIM_S = 2.0


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
    """What the rules of an hour recorded."""
    for number in range(experiments):
        who = {
            "cluster": "lab",
            "user": f"user{number % USERS}",
            "account": f"account{number % ACCOUNTS}",
            "experiment": f"experiment-{number}",
        }
        rule = "experiment:joulebook_{}:increase1h".format
        for component in ("gpu", "cpu"):
            yield Series(rule("energy_joules"), {**who, "component": component}, HOURS, 90_000)
        yield Series(rule("idle_energy_joules"), {**who, "component": "gpu"}, HOURS, 9_000)
        yield Series(rule("gpu_seconds"), who, HOURS, 900)
        yield Series(rule("co2e_grams"), who, HOURS, 20)
        for kind in ("electricity", "hardware"):
            yield Series(rule("cost"), {**who, "kind": kind, "currency": "EUR"}, HOURS, 40)
    for number in range(nodes):
        where = {"cluster": "lab", "node": f"node-{number:03}"}
        for component in ("gpu", "cpu"):
            of = {**where, "component": component}
            yield Series("meter:joulebook_energy_joules:increase1h", of, HOURS, 5_000_000)
            for reason in REASONS:
                rule_of = {**of, "reason": reason}
                yield Series("remainder:joulebook_energy_joules:increase1h", rule_of, HOURS, 90_000)


def counters(nodes: int) -> Iterator[Series]:
    """What the nodes exposed in the last hour, as far as Lab overview could touch it."""
    for number in range(nodes):
        where = {"cluster": "lab", "node": f"node-{number:03}"}
        for n in range(ON_A_NODE):
            whose = (number * ON_A_NODE + n) % EXPERIMENTS
            who = {
                **where,
                "user": f"user{whose % USERS}",
                "account": f"account{whose % ACCOUNTS}",
                "experiment": f"experiment-{whose}",
            }
            for what in ("energy_joules", "idle_energy_joules"):
                name = f"joulebook_experiment_{what}_total"
                yield Series(name, {**who, "component": "gpu"}, LAST_HOUR, 9_000, grows=True)
            for what in ("gpu_seconds", "co2e_grams"):
                name = f"joulebook_experiment_{what}_total"
                yield Series(name, who, LAST_HOUR, 10, grows=True)
            paid = {**who, "kind": "electricity", "currency": "EUR"}
            yield Series("joulebook_experiment_cost_total", paid, LAST_HOUR, 2, grows=True)
        for job in range(round(JOBS_AN_HOUR / NODES)):
            run = {**where, "workload": f"{number}{job:04}", "component": "gpu"}
            yield Series("joulebook_workload_energy_joules_total", run, LAST_HOUR, 9, grows=True)
        yield Series("joulebook_build_info", where, LAST_HOUR, 1)


def fill(home: Path, into: Server, series: Iterator[Series]) -> tuple[int, int]:
    """Put it into both; how many series and samples that were."""
    count = samples = 0
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


def timed(server: Server, tries: int) -> dict[str, float]:
    """Seconds that the queries of each panel take, one after another: the median of `tries`."""
    board = dashboards()["joulebook-lab"]
    span_s = 30 * DAY_S
    values = {v["name"]: ".*" for v in board["templating"]["list"]}
    for name in ("raw", "rules"):
        expression = choice(board, name)
        assert expression is not None
        (found,) = server.instant(filled(expression, {}, span_s, 60, 60), END_S)
        values[name] = found["metric"]["use"]
    assert (values["raw"], values["rules"]) == ("0", "1")
    took: dict[str, list[float]] = {}
    for _ in range(tries):
        spent: dict[str, float] = {}
        for ask in asks(board, values, END_S, span_s, 60):
            began = time.perf_counter()
            if ask.step_s:
                server.over(ask.expression, ask.start_s, ask.end_s, ask.step_s)
            else:
                server.instant(ask.expression, END_S)
            spent[ask.panel] = spent.get(ask.panel, 0.0) + time.perf_counter() - began
        for panel, seconds in spent.items():
            took.setdefault(panel, []).append(seconds)
    return {panel: median(seconds) for panel, seconds in took.items()}


def run(args: argparse.Namespace) -> list[Table]:
    """The table."""
    share = 10 if args.quick else 1
    nodes, experiments = NODES // share, EXPERIMENTS // share
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=".build") as scratch:
        home = Path(scratch).resolve()
        with victoria(home) as second:
            parts = (rules(experiments, nodes), counters(nodes))
            filled_with = [fill(home, second, part) for part in parts]
            with prometheus(home) as first:
                for server in (first, second):
                    pin(server.pid, last=True)
                    found[server.name] = timed(server, 3)
    series, samples = (sum(n) for n in zip(*filled_with, strict=True))
    table = Table(
        f"Lab overview over 30 days: {nodes} nodes, {experiments:,} experiments",
        ["panel", *(f"{name} ms" for name in found)],
    )
    for panel in next(iter(found.values())):
        table.add(panel, *(took[panel] * 1000 for took in found.values()))
    totals = {name: sum(took.values()) for name, took in found.items()}
    table.add("all, one after another", *(total * 1000 for total in totals.values()))
    table.notes += [
        f"{series:,} series, {samples:,} samples; the median of 3 tries, 20,000 jobs a day",
        f"aim: {AIM_S:g} s in all; "
        + ", ".join(f"{name} {'met' if t < AIM_S else 'missed'}" for name, t in totals.items()),
    ]
    return [table]
