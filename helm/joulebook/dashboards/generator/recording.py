"""Recording rules: what was used in each 5 minutes and each hour, by whom."""

from __future__ import annotations

from typing import Any, NamedTuple

from dashboards.generator.promql import (
    EXPIRED,
    J_PER_KWH,
    by,
    increment,
    indented,
    last_of,
    net,
    selector,
)
from dashboards.generator.yamltext import yaml_of

WINDOWS = {"5m": "20m", "1h": "2h"}
"""An interval, and how far back a scrape may lie: 15 minutes of outage are made up for in the
5-minute rules, an hour in those of an hour."""


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
    _of_experiments("cost", ", kind, currency", "joulebook_experiment_credit_total"),
    _of_experiments("co2e_grams"),
    Rollup("remainder", "energy_joules", "joulebook_remainder_energy_joules_total",
        f"{_NODE}, component, reason"),
    Rollup("remainder", "cost", "joulebook_remainder_cost_total",
        f"{_NODE}, reason, kind, currency", "joulebook_remainder_credit_total"),
    Rollup("remainder", "co2e_grams", "joulebook_remainder_co2e_grams_total", f"{_NODE}, reason"),
    Rollup("meter", "energy_joules", "joulebook_meter_energy_joules_total", f"{_NODE}, component"),
)  # fmt: skip

COMPUTE = "account:joulebook_compute_flop:increase5m"
_GPU = "cluster, node, uuid"
_COMPUTE = f"""\
300 * sum by (cluster, account) (
  sum by ({_GPU}, account) (sum_over_time(joulebook_gpu_held_ratio[5m]))
  / on ({_GPU}) group_left ()
  max by ({_GPU}) (count_over_time(joulebook_gpu_utilization_ratio[5m]))
  * on ({_GPU}) group_left ()
  max by ({_GPU}) (avg_over_time(joulebook_gpu_utilization_ratio[5m]))
  * on ({_GPU}) group_left ()
  max by ({_GPU}) (last_over_time(joulebook_gpu_peak_flops{{precision="fp16"}}[5m]))
)"""

SPENT = "budget:joulebook_spent:ratio"
_ENERGY = f"{last_of('joulebook_experiment_energy_joules_total', '1h')} / {J_PER_KWH}"
_MONEY = net(
    last_of("joulebook_experiment_cost_total", "1h"),
    last_of("joulebook_experiment_credit_total", "1h"),
)


def _spent() -> str:
    """Spent of each budget: in kWh and in money, of experiments and of whole accounts."""
    parts: list[str] = []
    money = f'label_replace(\n{indented(_MONEY)},\n  "unit", "$1", "currency", "(.*)"\n)'
    energy = f'label_replace({_ENERGY}, "unit", "kwh", "", "")'
    for whose, budget in (
        ("cluster, account, experiment, unit", 'joulebook_budget{experiment!=""}'),
        ("cluster, account, unit", 'joulebook_budget{experiment=""}'),
    ):
        parts.extend(
            f"{by(whose, used)}\n/ on ({whose})\nmax by ({whose}) ({budget})"
            for used in (energy, money)
        )
    return "\nor\n".join(parts)


def groups() -> list[dict[str, Any]]:
    """The rule groups."""
    return [
        {
            "name": f"joulebook-{interval}",
            "interval": interval,
            "rules": [
                *(
                    {"record": rollup.name(interval), "expr": rollup.expression(interval)}
                    for rollup in ROLLUPS
                ),
                *([{"record": COMPUTE, "expr": _COMPUTE}] if interval == "5m" else []),
                *([{"record": SPENT, "expr": _spent()}] if interval == "5m" else []),
            ],
        }
        for interval in WINDOWS
    ]


_ABOUT = """\
Recording rules of Joulebook, written by `make docs` from dashboards/generator/recording.py.
Every 5 minutes and every hour: what was used meanwhile, by experiment, by what belongs to nobody,
and by meter. They survive failed scrapes and restarts; what Prometheus did not evaluate while it
was down is put in by `promtool tsdb create-blocks-from rules` (docs/dashboards.md)."""


def text() -> str:
    """recording.rules.yaml."""
    return yaml_of({"groups": groups()}, _ABOUT)
