"""Recording rules: what was used in each 5 minutes and each hour, by whom.

There is none that no panel and no alert reads. What many nodes show is recorded by cluster, and
what many experiments used is recorded again by account, by user, and without its parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dashboards.generator.promql import (
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

BRIDGED = {"5m": "8h", "1h": "1d"}
"""How long nothing may be scraped before rules of an interval no longer make up for it: an
evaluation reads so much of every counter.
"""


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
        rise = _rise(self.counter, interval, self.matcher)
        if self.credit:
            rise = net(rise, _rise(self.credit, interval, self.matcher))
        return by(self.labels, rise)


def _rise(counter: str, interval: str, matcher: str) -> str:
    series = selector(counter, matcher)
    return increment(series, interval, WINDOWS[interval], BRIDGED[interval])


_OWNER = "cluster, user, account, experiment"


def _of_experiments(what: str, labels: str = "", credit: str = "") -> Rollup:
    counter = f"joulebook_experiment_{what}_total"
    return Rollup("experiment", what, counter, _OWNER + labels, credit, EXPIRED)


class Sums(NamedTuple):
    """What experiments used, by fewer labels, and without `component` and `kind` if not `parts`."""

    labels: str
    whats: frozenset[str]
    parts: bool = False

    def rules(self, level: str, interval: str) -> dict[str, str]:
        """The sums of what was just recorded of each experiment."""
        found = {}
        for rollup in ROLLUPS:
            if rollup.level == "experiment" and rollup.what in self.whats:
                more = rollup.labels.removeprefix(_OWNER)
                if not self.parts:
                    more = more.replace(", component", "").replace(", kind", "")
                name = f"{level}:joulebook_{rollup.what}:increase{interval}"
                found[name] = by(self.labels + more, rollup.name(interval))
        return found


ROLLUPS = (
    _of_experiments("energy_joules", ", component"),
    _of_experiments("idle_energy_joules", ", component"),
    _of_experiments("gpu_seconds"),
    _of_experiments("idle_gpu_seconds"),
    _of_experiments("cost", ", kind, currency", "joulebook_experiment_credit_total"),
    _of_experiments("idle_cost", ", kind, currency"),
    _of_experiments("co2e_grams"),
    Rollup("remainder", "energy_joules", "joulebook_remainder_energy_joules_total",
        "cluster, component, reason"),
    Rollup("remainder", "gpu_seconds", "joulebook_remainder_gpu_seconds_total",
        "cluster, reason"),
    Rollup("remainder", "cost", "joulebook_remainder_cost_total",
        "cluster, node, reason, kind, currency", "joulebook_remainder_credit_total"),
    Rollup("meter", "energy_joules", "joulebook_meter_energy_joules_total", "cluster, component"),
)  # fmt: skip

SUMS = {
    "account": Sums(
        "cluster, account",
        frozenset(rollup.what for rollup in ROLLUPS if rollup.level == "experiment"),
        parts=True,
    ),
    "user": Sums(
        "cluster, account, user",
        frozenset(
            ("energy_joules", "idle_energy_joules", "gpu_seconds", "idle_gpu_seconds", "idle_cost")
        ),
    ),
    "owner": Sums(_OWNER, frozenset(("energy_joules", "cost"))),
}
"""By level: what panels that need no more labels than these read, since it is less."""

COMPUTE = "account:joulebook_compute_flop:increase1h"


def _compute() -> str:
    """Time in which held GPUs worked, times the mean peak of the GPUs of their node."""

    def hours(what: str) -> str:
        counter = f"joulebook_experiment_{what}_total"
        return by("cluster, node, account", _rise(counter, "1h", EXPIRED))

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
    scraped for longer than they bridge: that is lost to rules. At the very beginning: all the time
    before.
    """
    rule, seconds, bridged = f"{COVERED}{interval}", SECONDS[interval], BRIDGED[interval]
    before = (
        f"count_over_time(group(joulebook_build_info)[{bridged}:10m] offset {WINDOWS[interval]})"
    )
    return f"""\
(time() - max_over_time(timestamp({rule})[{bridged}:1m])
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

RATES = {
    "electricity_price_per_kwh": "cluster, currency",
    "carbon_intensity_grams_per_kwh": "cluster, zone",
    "pue_ratio": "cluster",
}
"""Gauges that every node shows, and by what a lab tells them apart."""


def rate_rule(what: str) -> str:
    """The name of the rule with the mean of a gauge over all nodes."""
    return f"cluster:joulebook_{what}:avg"


_BUDGETED = {
    f"budget:joulebook_{what}:increase1h": (
        f"sum by (cluster, account, experiment{more}) (experiment:joulebook_{what}:increase1h)\n"
        "and on (cluster) joulebook_budget"
    )
    for what, more in (("energy_joules", ""), ("cost", ", currency"))
}
"""What experiments used in clusters that have a budget. A month is read from these, so that where
there is none nothing is read; of all experiments, so that a new budget knows its month.
"""


def _month(what: str, labels: str) -> str:
    """What was used since the month (of UTC) began."""
    rule = f"budget:joulebook_{what}:increase1h"
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
    own = {
        "5m": {
            rate_rule(what): f"avg by ({labels}) (joulebook_{what})"
            for what, labels in RATES.items()
        },
        "1h": {COMPUTE: _compute(), **_BUDGETED, SPENT: _spent()},
    }
    return [
        {
            "name": f"joulebook-{interval}",
            "interval": interval,
            "rules": [
                {"record": name, "expr": expression}
                for name, expression in {
                    **{rollup.name(interval): rollup.expression(interval) for rollup in ROLLUPS},
                    **{
                        name: expression
                        for level, sums in SUMS.items()
                        for name, expression in sums.rules(level, interval).items()
                    },
                    **own[interval],
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
