"""Recording rules: what was used in each 5 minutes and each hour, by whom."""

from __future__ import annotations

from typing import Any, NamedTuple

from dashboards.generator.promql import (
    BRIDGED,
    EXPIRED,
    J_PER_KWH,
    by,
    increment,
    indented,
    net,
    selector,
)
from dashboards.generator.yamltext import yaml_of

WINDOWS = {"5m": "20m", "1h": "2h"}
"""An interval, and how far back the last scrape may lie."""


class Rollup(NamedTuple):
    """`level:joulebook_what:increase{5m,1h}`, of one counter (and what is taken off it)."""

    level: str
    what: str
    counter: str
    labels: str
    credit: str = ""
    matcher: str = ""

    def name(self, interval: str) -> str:
        """The name of the rule."""
        return f"{self.level}:joulebook_{self.what}:increase{interval}"

    def expression(self, interval: str) -> str:
        """What it records."""
        window = WINDOWS[interval]
        rise = increment(selector(self.counter, self.matcher), interval, window)
        if self.credit:
            rise = net(rise, increment(selector(self.credit, self.matcher), interval, window))
        return by(self.labels, rise)


_OWNER = "cluster, user, account, experiment"
_NODE = "cluster, node"


def _of_experiments(what: str, labels: str = "", credit: str = "") -> Rollup:
    counter = f"joulebook_experiment_{what}_total"
    return Rollup("experiment", what, counter, _OWNER + labels, credit, EXPIRED)


ROLLUPS = (
    _of_experiments("energy_joules", ", component"),
    _of_experiments("idle_energy_joules", ", component"),
    _of_experiments("gpu_seconds"),
    _of_experiments("idle_gpu_seconds"),
    _of_experiments("cost", ", kind, currency", "joulebook_experiment_credit_total"),
    _of_experiments("idle_cost", ", kind, currency"),
    _of_experiments("co2e_grams"),
    Rollup("remainder", "energy_joules", "joulebook_remainder_energy_joules_total",
        f"{_NODE}, component, reason"),
    Rollup("remainder", "gpu_seconds", "joulebook_remainder_gpu_seconds_total",
        f"{_NODE}, reason"),
    Rollup("remainder", "cost", "joulebook_remainder_cost_total",
        f"{_NODE}, reason, kind, currency", "joulebook_remainder_credit_total"),
    Rollup("meter", "energy_joules", "joulebook_meter_energy_joules_total", f"{_NODE}, component"),
)  # fmt: skip

COMPUTE = "account:joulebook_compute_flop:increase1h"


def _compute() -> str:
    """Time in which held GPUs worked, times the mean peak of the GPUs of their node."""

    def hours(what: str) -> str:
        counter = selector(f"joulebook_experiment_{what}_total", EXPIRED)
        return by("cluster, node, account", increment(counter, "1h", WINDOWS["1h"]))

    peak = 'last_over_time(joulebook_gpu_peak_flops{precision="fp16"}[2h])'
    return (
        "sum by (cluster, account) (\n  (\n"
        f"{indented(hours('gpu_seconds'), 4)}\n    -\n{indented(hours('idle_gpu_seconds'), 4)}\n"
        "  )\n  * on (cluster, node) group_left ()\n"
        f"  avg by (cluster, node) ({peak})\n)"
    )


COVERED = "rules:joulebook_covered_seconds:increase"
"""And an interval: for how long a rule of that interval speaks. The panels add it up to see whether
rules know all of a range."""


def _covered(interval: str) -> str:
    """Time since the rules were evaluated before: they make up for what was not scraped.

    Only the interval, where scrapes went on while an evaluation was left out, or where nothing was
    scraped for more than a day: that is lost to rules. At the very beginning: all the time before.
    """
    rule, seconds = f"{COVERED}{interval}", SECONDS[interval]
    before = (
        f"count_over_time(group(joulebook_build_info)[{BRIDGED}:10m] offset {WINDOWS[interval]})"
    )
    return f"""\
(time() - max_over_time(timestamp({rule})[{BRIDGED}:1m])
  unless on () (
    present_over_time(joulebook_build_info[2m] offset {interval})
    unless on () last_over_time({rule}[{seconds // 2}s] offset {seconds * 3 // 4}s)
  ))
or
(vector(1e9)
  unless on () {before}
  unless on () last_over_time({rule}[60d]))
or
vector({seconds})"""


SECONDS = {"5m": 300, "1h": 3600}

SPENT = "budget:joulebook_spent:ratio"


def _month(what: str, labels: str) -> str:
    """What was used since the month (of UTC) began, by the rules of an hour."""
    rule = f"experiment:joulebook_{what}:increase1h"
    now = "last_over_time(month()[1m:1m] @ end())"
    return by(
        labels,
        "sum_over_time((\n"
        f"  sum by ({labels}) (sum_over_time({rule}[1h] offset -1ms))\n"
        f"  and on () (month(vector(time() - 1)) == on () {now})\n"
        ")[31d:1h])",
    )


def _spent() -> str:
    """Spent of each month's budget: in kWh and in money, of experiments and of whole accounts."""
    parts: list[str] = []
    for whose, budget in (
        ("cluster, account, experiment", 'joulebook_budget{experiment!=""}'),
        ("cluster, account", 'joulebook_budget{experiment=""}'),
    ):
        energy = _month("energy_joules", whose)
        money = _month("cost", f"{whose}, currency")
        for used in (
            f'label_replace(\n{indented(energy)}\n  / {J_PER_KWH},\n  "unit", "kwh", "", ""\n)',
            f'label_replace(\n{indented(money)},\n  "unit", "$1", "currency", "(.*)"\n)',
        ):
            unit = f"{whose}, unit"
            parts.append(f"{by(unit, used)}\n/ on ({unit})\nmax by ({unit}) ({budget})")
    return "\nor\n".join(parts)


def groups() -> list[dict[str, Any]]:
    """The rule groups."""
    hourly = {COMPUTE: _compute(), SPENT: _spent()}
    return [
        {
            "name": f"joulebook-{interval}",
            "interval": interval,
            "rules": [
                {"record": name, "expr": expression}
                for name, expression in {
                    **{rollup.name(interval): rollup.expression(interval) for rollup in ROLLUPS},
                    **(hourly if interval == "1h" else {}),
                    f"{COVERED}{interval}": _covered(interval),
                }.items()
            ],
        }
        for interval in WINDOWS
    ]


_ABOUT = """\
Recording rules of Joulebook, written by `make docs` from dashboards/generator/recording.py.
Every 5 minutes and every hour: what was used meanwhile, by experiment, by what belongs to nobody,
and by meter. They survive failed scrapes, restarts, and a Prometheus that is down for up to a day.
Where they are not evaluated although scrapes go on, dashboards read the counters instead until
`promtool tsdb create-blocks-from rules` has put in what is missing (docs/dashboards.md)."""


def text() -> str:
    """recording.rules.yaml."""
    return yaml_of({"groups": groups()}, _ABOUT)
