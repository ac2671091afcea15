"""The figures that several dashboards show, each asked in one way only.

Ranges up to 25 hours read the counters, longer ones the rules of an hour; or the counters still,
where rules do not go back in the range as far as counters do (one look every six hours tells).
Which it is, two hidden variables say: the matcher of the half that is not wanted fits no series, so
that it costs nothing.
"""

from __future__ import annotations

from dashboards.generator.board import Variable, hidden, label_values
from dashboards.generator.panel import Query
from dashboards.generator.promql import EXPIRED, J_PER_KWH, by, exact, net, selector, whole

WHO = 'cluster=~"$cluster",account=~"$account",user=~"$user",experiment=~"$experiment"'
OF_GPU = 'component="gpu"'
WHERE = 'cluster=~"$cluster",node=~"$node"'

_RAW, _RULES = 'node=~"(.+){$raw}"', '{label}=~"(.+){{$rules}}"'
_SHORT_S = 90_000
_RULE = "meter:joulebook_energy_joules:increase1h"
_RECORDED = f"count_over_time((group(last_over_time({_RULE}[3h])))[$__range:6h])"
_COUNTED = "count_over_time((group(joulebook_build_info))[$__range:6h])"


def _choice() -> tuple[Variable, ...]:
    recorded = f"(({_RECORDED} >= bool ({_COUNTED} or vector(0))) or vector(0))"
    rules = f"(vector($__range_s) > bool {_SHORT_S}) * {recorded}"
    return (
        hidden("raw", f'count_values("use", 1 - {rules})'),
        hidden("rules", f'count_values("use", {rules})'),
    )


CHOICE = _choice()
"""`$raw` and `$rules`: 1 for the one that is read, 0 for the other. As a count in a matcher,
`node=~"(.+){0}"`, 0 fits nothing, since these labels are never empty."""

_ENERGY = "joulebook_experiment_energy_joules_total"

CLUSTER = label_values("cluster", "joulebook_build_info", "cluster")
OWNERS = (
    CLUSTER,
    label_values("account", f'{_ENERGY}{{cluster=~"$cluster"}}', "account"),
    label_values("user", f'{_ENERGY}{{cluster=~"$cluster",account=~"$account"}}', "user"),
    label_values(
        "experiment",
        f'{_ENERGY}{{cluster=~"$cluster",account=~"$account",user=~"$user",{EXPIRED}}}',
        "experiment",
    ),
)
"""Whose: what most dashboards can be narrowed to."""

NODES = (CLUSTER, label_values("node", 'joulebook_build_info{cluster=~"$cluster"}', "node"))
"""Where."""


def used(what: str, labels: str = "", *matchers: str) -> str:
    """What experiments used in the range, by labels.

    `what` is `energy_joules`, `idle_energy_joules`, `gpu_seconds`, `cost` or `co2e_grams`.
    """
    who = ",".join((WHO, *matchers))
    counter = selector(f"joulebook_experiment_{what}_total", who, EXPIRED, _RAW)
    rule = selector(
        f"experiment:joulebook_{what}:increase1h", who, _RULES.format(label="experiment")
    )
    raw = f"increase({counter}[$__range])"
    if what == "cost":
        credit = selector("joulebook_experiment_credit_total", WHO, EXPIRED, _RAW)
        raw = net(raw, f"increase({credit}[$__range])")
    return f"{by(labels, raw)}\nor\n{by(labels, whole(rule, '$__range'))}"


def unused(what: str, labels: str = "", *matchers: str) -> str:
    """The same for what belongs to nobody: `energy_joules`, `cost` or `co2e_grams`."""
    where = ",".join(('cluster=~"$cluster"', *matchers))
    counter = selector(f"joulebook_remainder_{what}_total", where, _RAW)
    rule = selector(f"remainder:joulebook_{what}:increase1h", where, _RULES.format(label="node"))
    raw = f"increase({counter}[$__range])"
    if what == "cost":
        credit = selector("joulebook_remainder_credit_total", where, _RAW)
        raw = net(raw, f"increase({credit}[$__range])")
    return f"{by(labels, raw)}\nor\n{by(labels, whole(rule, '$__range'))}"


def metered() -> str:
    """All energy that the meters read in the range, whosever it was."""
    counter = selector("joulebook_meter_energy_joules_total", 'cluster=~"$cluster"', _RAW)
    rule = selector(
        "meter:joulebook_energy_joules:increase1h",
        'cluster=~"$cluster"',
        _RULES.format(label="node"),
    )
    return f"sum(increase({counter}[$__range]))\nor\nsum({whole(rule, '$__range')})"


def kwh(joules: str) -> str:
    """Joules as kilowatt-hours, of one or of several alternatives."""
    return f"({joules}) / {J_PER_KWH}"


def power(labels: str, legend: str) -> tuple[Query, Query]:
    """Mean power of experiments over time: of the counters, or of the rules in long ranges."""
    return power_of("energy_joules", labels, legend)


def power_of(what: str, labels: str, legend: str) -> tuple[Query, Query]:
    """The same of a part of their energy."""
    counter = selector(f"joulebook_experiment_{what}_total", WHO, EXPIRED, _RAW)
    rule = selector(
        f"experiment:joulebook_{what}:increase1h", WHO, _RULES.format(label="experiment")
    )
    return (
        Query(by(labels, f"rate({counter}[$__rate_interval])"), legend, "1m"),
        Query(f"{by(labels, whole(rule, '$__interval'))} / ($__interval_ms / 1000)", legend, "1h"),
    )


def power_unused(labels: str, legend: str, *matchers: str) -> tuple[Query, Query]:
    """Mean power of what belongs to nobody."""
    where = ",".join(('cluster=~"$cluster"', *matchers))
    counter = selector("joulebook_remainder_energy_joules_total", where, _RAW)
    rule = selector(
        "remainder:joulebook_energy_joules:increase1h", where, _RULES.format(label="node")
    )
    return (
        Query(by(labels, f"rate({counter}[$__rate_interval])"), legend, "1m"),
        Query(f"{by(labels, whole(rule, '$__interval'))} / ($__interval_ms / 1000)", legend, "1h"),
    )


def recorded(what: str, labels: str, span: str = "$__interval", *matchers: str) -> str:
    """What experiments used in each span, from the rules alone."""
    rule = selector(f"experiment:joulebook_{what}:increase1h", WHO, *matchers)
    return by(labels, whole(rule, span))


def run(what: str, labels: str = "workload", *matchers: str) -> str:
    """What workloads used in the range, exactly: the last value less that at its beginning."""
    who = ",".join((WHO, *matchers))
    counter = selector(f"joulebook_workload_{what}_total", who)
    used_then = exact(counter)
    if what == "cost":
        credit = selector("joulebook_workload_credit_total", WHO, *matchers)
        used_then = net(used_then, exact(credit))
    return by(labels, used_then)
