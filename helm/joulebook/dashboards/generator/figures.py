"""The figures that several dashboards show, each asked in one way only.

What is little to read is read from the counters, whatever the range: they are never wrong. What is
much (a large lab, a long range) is read from the recording rules, if these know all of the range:
those of 5 minutes up to 25 hours, then those of an hour. Which it is, the hidden variable `use`
says. It is the end of the name of what is read, so that the others name nothing and cost nothing.
Sums of all users and experiments are read from the rules of accounts, those of all experiments of a
user from the rules of users, of which there are few: that say the hidden variables `whose` and
`users`.
"""

from __future__ import annotations

from collections.abc import Callable

from dashboards.generator import links
from dashboards.generator.board import Variable, follows, hidden, label_values, named
from dashboards.generator.panel import Column, Query
from dashboards.generator.promql import (
    COPIES,
    EXPIRED,
    J_PER_KWH,
    by,
    chosen,
    exact,
    indented,
    net,
    one_of,
    rate,
    ratio,
    risen,
    selector,
    whole,
)
from dashboards.generator.recording import COVERED, SECONDS, SUMS

CLUSTERS = chosen("cluster")
WHO = chosen("cluster", "account", "user", "experiment")
PAID = chosen("currency")
OF_GPU = 'component="gpu"'
WHERE = chosen("cluster", "node")

_SHORT_S = 90_000
_LITTLE = "2e7"
"""Experiments on nodes times seconds of the range: 1.3 million samples for each series of these, at
15 s a scrape.
"""


def _known(interval: str) -> str:
    """Fits if the rules of an interval know all of the range, once (not of two Prometheis)."""
    rule, seconds = f"{COVERED}{interval}", SECONDS[interval]
    return (
        f"max(sum_over_time({rule}[$__range])) >= $__range_s - {2 * seconds} "
        f"and max(count_over_time({rule}[$__range])) <= $__range_s / {seconds} + 2"
    )


def _use() -> Variable:
    much = f"(count({_HELD}) * $__range_s > {_LITTLE})"
    short, long = (f"(vector($__range_s) {sign} {_SHORT_S})" for sign in ("<=", ">"))
    return hidden(
        "use",
        f"((({named(use='increase5m')} and on () {short} and on () ({_known('5m')})) or on () "
        f"({named(use='increase1h')} and on () {long} and on () ({_known('1h')}))) "
        f"and on () {much}) or on () {named(use='total')}",
    )


RECORDED = {f"increase{interval}": interval for interval in SECONDS}
"""What `$use` is where rules are read, and their interval."""


_ENERGY, _HELD = (f"joulebook_experiment_{what}_total" for what in ("energy_joules", "gpu_seconds"))

WHOSE = follows("whose", "${user:regex} ${experiment:regex}", {".* .*": "account"}, "experiment")
"""`$whose`: whether all users and experiments are chosen (`account`), or not (`experiment`)."""

USERS = follows("users", "${experiment:regex}", {".*": "user"}, "experiment")
"""`$users`: whether all experiments are chosen (`user`), or not (`experiment`)."""

DAY = hidden(
    "day", f"({named(day='1h')} and on () vector($__range_s) < 86400) or on () {named(day='1d')}"
)
"""`$day`: what a bar is of: a day, or an hour in ranges of less, which no midnight may be in."""

_LARGE = (
    f"count(group by (cluster, node) (joulebook_build_info{{{CLUSTERS}}})) * $__range_s > 1.5e7"
)
"""More nodes times seconds than gauges, or runs of everybody (20 a day and node), are read of."""

RULES = hidden("rules", f"({named(rules='1')} and on () {_LARGE}) or on () {named(rules='0')}")
"""`$rules`: 1 if gauges are read from rules, else 0: how often a matcher repeats a part."""

NOT_OF_RULES = 'node!~"(.*){$rules}"'
"""Fits every node, unless rules are read: then a gauge names nothing."""

MANY = hidden(
    "many",
    f"({named(many='1', of='$whose')} and on (of) {named(of='account')} and on () {_LARGE})"
    f" or on () {named(many='0')}",
)
"""`$many`: 1 if everybody of a large lab is chosen, else 0."""

NOT_OF_MANY = 'node!~"(.*){$many}"'
"""Fits every node, unless everybody of a large lab is chosen: then runs' counters name nothing."""

CHOICE = (
    _use(),
    follows("step", "$use", RECORDED, "1m"),
    WHOSE,
    USERS,
)
"""`$use`: `total`, `increase5m` or `increase1h`; `$step`, its shortest interval; and whose."""

CLUSTER = label_values("cluster", "joulebook_build_info", "cluster")
OWNERS = (
    CLUSTER,
    label_values("account", f"{_ENERGY}{{{CLUSTERS}}}", "account"),
    label_values("user", f"{_ENERGY}{{{chosen('cluster', 'account')}}}", "user"),
    label_values(
        "experiment",
        f"{_ENERGY}{{{chosen('cluster', 'account', 'user')},{EXPIRED}}}",
        "experiment",
    ),
)
"""Whose: what most dashboards can be narrowed to."""

CURRENCY = label_values(
    "currency", f"joulebook_experiment_cost_total{{{CLUSTERS}}}", "currency", several=False
)
"""In which currency tables and axes are: amounts of two are never in one column."""

NODES = (CLUSTER, label_values("node", f"joulebook_build_info{{{CLUSTERS}}}", "node"))
"""Where."""


def _read(level: str, what: str, matchers: str, labels: str) -> tuple[str, str]:
    """A counter and its rule, of which `$use` leaves one; asked for by labels."""
    expired = EXPIRED if level == "experiment" else ""
    return (
        selector(f"joulebook_{level}_{what}_$use", matchers, expired),
        selector(f"{_rule(level, what, matchers, labels)}:$use", matchers),
    )


def _rule(level: str, what: str, matchers: str, labels: str) -> str:
    """The name of a rule without its interval; of experiments, the one with the fewest series that
    has the labels.
    """
    if level == "experiment":
        asked = {*labels.split(", ")}
        in_parts = "component" in labels + matchers or "kind" in labels + matchers
        if not asked & {"user", "experiment"}:
            level = "$whose"
        elif "experiment" not in asked and what in SUMS["user"].whats and not in_parts:
            level = "$users"
        elif what in SUMS["owner"].whats and not in_parts:
            level = "owner"
    return f"{level}:joulebook_{what}"


def _summed(level: str, what: str, labels: str, matchers: str) -> str:
    counter, rule = _read(level, what, matchers, labels)
    rise = risen(counter)
    if what == "cost":
        rise = net(rise, risen(_read(level, "credit", _uncharged(matchers), "")[0]))
    return f"{by(labels, rise)}\nor\n{by(labels, whole(rule, '$__range'))}"


def _uncharged(matchers: str) -> str:
    """The same for credit, which has no `kind`: all of it is of electricity."""
    return ",".join(each for each in matchers.split(",") if not each.startswith("kind="))


_BEFORE = " offset $__range"


def used_before(what: str, labels: str = "") -> str:
    """What experiments used in the time before the range that is as long, if that is known."""
    counter, rule = _read("experiment", what, WHO, labels)
    rise = one_of(COPIES, f"increase({counter}[$__range]{_BEFORE})")
    if what == "cost":
        credit = _read("experiment", "credit", WHO, "")[0]
        rise = net(rise, one_of(COPIES, f"increase({credit}[$__range]{_BEFORE})"))
    covered = f"max(sum_over_time(rules:joulebook_covered_seconds:$use[$__range]{_BEFORE}))"
    return (
        f"{by(labels, rise)}\nor\n"
        f"({by(labels, f'sum_over_time({rule}[$__range]{_BEFORE})')}\n"
        f"  and on () {covered} >= $__range_s - 7200)"
    )


def used(what: str, labels: str = "", *matchers: str) -> str:
    """What experiments used in the range, by labels.

    `what` is `energy_joules`, `idle_energy_joules`, `gpu_seconds`, `idle_gpu_seconds`, `cost`,
    `idle_cost` or `co2e_grams`.
    """
    return _summed("experiment", what, labels, ",".join((WHO, *matchers)))


def unused(what: str, labels: str = "", *matchers: str) -> str:
    """The same for what belongs to nobody: `energy_joules`, `gpu_seconds` or `cost`."""
    return _summed("remainder", what, labels, ",".join((CLUSTERS, *matchers)))


def metered() -> str:
    """All energy that the meters read in the range, whosever it was."""
    return _summed("meter", "energy_joules", "", CLUSTERS)


def kwh(joules: str) -> str:
    """Joules as kilowatt-hours, of one or of several alternatives."""
    return f"({joules}) / {J_PER_KWH}"


def _power(level: str, what: str, labels: str, legend: str, matchers: str) -> Query:
    counter, rule = _read(level, what, matchers, labels)
    covered = f"max({whole(COVERED.removesuffix('increase') + '$use', '$__interval')}) < 1e8"
    recorded = (
        f"{by(labels, whole(rule, '$__interval'))}\n"
        f"/ on () group_left () ({covered} or vector($__interval_ms / 1000))"
    )
    return Query(
        f"{by(labels, rate(counter))}\nor\n{recorded}",
        legend,
        "$step",
    )


def power(labels: str, legend: str, what: str = "energy_joules") -> Query:
    """Mean power of experiments over time, or of a part of their energy; after an outage, of all of
    it.
    """
    return _power("experiment", what, labels, legend, WHO)


def power_unused(labels: str, legend: str, *matchers: str) -> Query:
    """Mean power of what belongs to nobody."""
    where = ",".join((CLUSTERS, *matchers))
    return _power("remainder", "energy_joules", labels, legend, where)


def by_day(what: str, labels: str) -> str:
    """What experiments used in each day that the range touches (or hour, if `$day` says so), asked
    for at each midnight. Money is of the currency that is chosen.
    """
    who = f"{WHO},{PAID}" if what == "cost" else WHO
    counter, rule = _read("experiment", what, who, labels)

    def day(series: str) -> str:
        return risen(series, "$__interval", offset="-$__interval", start="")

    rise = day(counter)
    if what == "cost":
        rise = net(rise, day(_read("experiment", "credit", who, "")[0]))
    recorded = one_of(COPIES, f"sum_over_time({rule}[$__interval] offset -$__interval)")
    return f"{by(labels, rise)}\nor\n{by(labels, recorded)}"


def recorded(what: str, labels: str, span: str, *matchers: str) -> str:
    """What experiments used in each span, from the rules of an hour alone."""
    rule = f"{_rule('experiment', what, ','.join(matchers), labels)}:increase1h"
    return by(labels, whole(selector(rule, WHO, *matchers), span))


def run(what: str, labels: str = "workload", *matchers: str) -> str:
    """What workloads used in the range, exactly: the last value less that at its beginning."""
    who = ",".join((WHO, NOT_OF_MANY, *matchers))
    used_then = exact(selector(f"joulebook_workload_{what}_total", who))
    if what == "cost":
        credit = selector("joulebook_workload_credit_total", _uncharged(who))
        used_then = net(used_then, exact(credit))
    return by(labels, used_then)


NO_PRICE = "none, or no price: see rates.price"
NO_CARBON = "none, or no intensity: see rates.carbon"
"""What empty figures of money and CO2e say: in the first hour nothing was charged yet."""

OF_IDLE = ((None, "green"), (0.1, "orange"), (0.25, "red"))
"""Colours of the share of GPU energy that was allocated but idle."""


def idle_share(of: Callable[..., str], labels: str) -> Column:
    """The column with the idle share of the GPU energy that `used` or `run` gives."""
    idle, all_ = of("idle_energy_joules", labels, OF_GPU), of("energy_joules", labels, OF_GPU)
    return Column("Idle", Query(ratio(idle, f"({all_}) > 0")), "percentunit", 0, share=True)


HOLDER = (
    Column("cluster", width=110),
    Column("node", link=links.NODE),
    Column("gpu", width=60),
    Column("workload", link=links.WORKLOAD),
    Column("user"),
    Column("account"),
    Column("experiment", link=links.EXPERIMENT),
)
"""Columns that say which GPU, and who holds it."""

LEGENDS = 11
"""How many of a kind a picture shows before the rest."""


def leading(
    query: Query, labels: str, rank: str, rest: str = "(others)", joined: str = "sum"
) -> tuple[Query, Query]:
    """A course of those that used most in the range, and of all others together.

    `rank` is what they are ranked by, asked of the range: once, at its end.
    """
    course = f"(\n{indented(query.expression)}\n)"
    return (
        Query(foremost(query.expression, labels, rank), query.legend, query.step),
        Query(f"{joined}({course} unless on ({labels}) {largest(rank)})", rest, query.step),
    )


def at_the_end(expression: str) -> str:
    """The same, asked at the end of the range whatever instant of a course is worked out.

    Not at PromQL's `end()`: Grafana moves that back to a whole step, to midnight where steps are
    days.
    """
    fixed = expression.replace("[$__range]", f"[$__range] @ {END}")
    return fixed.replace("] offset $__range", f"] @ {END} offset $__range")


END = "${__to:date:seconds}"
"""The end of the range."""


def largest(rank: str) -> str:
    """Those that come first by `rank`, which is asked of the range."""
    return f"topk({LEGENDS}, {at_the_end(rank)})"


def foremost(expression: str, labels: str, rank: str) -> str:
    """Of a course, those that come first by `rank`."""
    return f"(\n{indented(expression)}\n)\nand on ({labels}) {largest(rank)}"


def ranked(
    labels: str, expression: str, legend: str, rest: str = "(others)"
) -> tuple[Query, Query]:
    """Bars of the largest, and of all others together."""
    most = f"topk({LEGENDS}, {expression})"
    return (
        Query(f"sort_desc({most})", legend),
        Query(f"sum(({expression}) unless on ({labels}) {most}) > 0", rest),
    )
