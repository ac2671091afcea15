"""Mine, and my account's: dashboards for users, behind a proxy that narrows every selector.

prom-label-proxy puts one label, `user` or `account`, into every selector of a query: a series that
lacks it is not found. So all that is read here has both, and nothing is about nodes, prices or
what belongs to nobody; rules and `joulebook_build_info`, which the lab's dashboards read, are not.
"""

from __future__ import annotations

from dashboards.generator.board import Board, Row, Variable, label_values
from dashboards.generator.figures import (
    NO_CARBON,
    NO_PRICE,
    OF_GPU,
    OF_IDLE,
    WHO,
    kwh,
    leading,
    ranked,
)
from dashboards.generator.panel import EACH_NAMED, STACKED, Basis, Column, Panel, Query, stat
from dashboards.generator.promql import EXPIRED, by, chosen, net, rate, ratio, risen, selector

_NONE = "nothing was used"


def _used(what: str, labels: str = "", *matchers: str, level: str = "experiment") -> str:
    """What was used in the range, from counters that say whose it is."""
    who = (WHO, *matchers, EXPIRED if level == "experiment" else "")
    rise = risen(selector(f"joulebook_{level}_{what}_total", *who))
    if what == "cost":
        rise = net(rise, risen(selector(f"joulebook_{level}_credit_total", *who)))
    return by(labels, rise)


def _idle_share(labels: str, level: str = "experiment") -> str:
    idle, every = (
        _used(what, labels, OF_GPU, level=level) for what in ("idle_energy_joules", "energy_joules")
    )
    return ratio(idle, f"({every}) > 0")


def _course(what: str, labels: str) -> str:
    counter = selector(f"joulebook_experiment_{what}_total", WHO, EXPIRED)
    return by(labels, rate(counter))


TOTALS = (
    stat("Energy", "Idle parts included.", Basis.METERED, "kwatth",
        Query(kwh(_used("energy_joules"))), empty=_NONE),
    stat("Cost", "Electricity and hardware, less what negative prices earned.", Basis.RATED,
        "locale", Query(_used("cost", "currency"), "{{currency}}"), decimals=2,
        options=EACH_NAMED, empty=NO_PRICE),
    stat("CO2e", "Location-based emissions of electricity.", Basis.RATED, "suffix: kg",
        Query(f"({_used('co2e_grams')}) / 1000"), decimals=2, empty=NO_CARBON),
    stat("GPU-hours", "Hours for which GPUs were held.", Basis.HELD, "locale",
        Query(f"({_used('gpu_seconds')}) / 3600"), decimals=1, empty=_NONE),
    stat("Allocated but idle", "Share of GPU energy consumed while the GPUs did nothing.",
        Basis.METERED, "percentunit", Query(_idle_share("")), decimals=1, thresholds=OF_IDLE,
        empty=_NONE),
    stat("Cost of idle allocations", "Electricity and hours of GPUs while they did nothing.",
        Basis.RATED, "locale", Query(_used("idle_cost", "currency"), "{{currency}}"), decimals=2,
        options=EACH_NAMED, empty=NO_PRICE),
)  # fmt: skip


def _over_time(labels: str, legend: str) -> tuple[Panel, ...]:
    return (
        Panel(
            "Power",
            "Mean power of what was held: those that used most, and the others.",
            Basis.METERED,
            "watt",
            leading(
                Query(_course("energy_joules", labels), legend, "1m"),
                labels,
                _used("energy_joules", labels),
            ),
            custom=STACKED,
            empty=_NONE,
        ),
        Panel(
            "GPUs that were held, and idle",
            "Mean number of GPUs: all that were held, and the part of them that did nothing.",
            Basis.HELD,
            "locale",
            (
                Query(_course("gpu_seconds", ""), "held", "1m"),
                Query(_course("idle_gpu_seconds", ""), "idle", "1m"),
            ),
            empty=_NONE,
        ),
    )


def _table(title: str, about: str, labels: tuple[str, ...], level: str) -> Panel:
    names = ", ".join(labels)

    def of(what: str, more: str = "") -> str:
        return _used(what, names + more, level=level)

    return Panel(
        title,
        about,
        Basis.RATED,
        "none",
        kind="table",
        width=24,
        height=10,
        hidden=("scheduler",),
        columns=(
            *(Column(label, width=120) for label in labels),
            Column("Energy (kWh)", Query(kwh(of("energy_joules"))), "locale", 3, total=True),
            Column("GPU-hours", Query(f"({of('gpu_seconds')}) / 3600"), "locale", 2, total=True),
            Column("CO2e (kg)", Query(f"({of('co2e_grams')}) / 1000"), "locale", 3, total=True),
            Column("Idle", Query(_idle_share(names, level)), "percentunit", 0, share=True),
        ),
        sort="Energy (kWh)",
        empty="Nothing was used in the range",
    )


def _choices(*names: str) -> tuple[Variable, ...]:
    """Choices of these labels, each narrowed by those before."""
    counter = "joulebook_experiment_energy_joules_total"
    return tuple(
        label_values(name, selector(counter, _asked(names[:number]), EXPIRED), name)
        for number, name in enumerate(names)
    )


def _asked(before: tuple[str, ...]) -> str:
    """Matchers of what was chosen before; the first choice needs one too, which all series fit."""
    return chosen(*before) if before else 'user=~".*",account=~".*"'


def _money(labels: str, legend: str) -> Panel:
    return Panel(
        "Cost by part",
        "Electricity and hardware: the largest, and the others.",
        Basis.RATED,
        "locale",
        ranked(f"{labels}, currency", f"({_used('cost', f'{labels}, currency')}) > 0",
            legend + " {{currency}}"),
        "bargauge",
        24,
        9,
        decimals=2,
        empty=NO_PRICE,
    )  # fmt: skip


MINE = Board(
    "joulebook-mine",
    "My jobs",
    "What a user's jobs used and cost, for a data source that a proxy narrows to the user.",
    _choices("user", "account", "experiment", "cluster"),
    (
        Row("", TOTALS),
        Row("Over time", _over_time("cluster, experiment", "{{experiment}} {{cluster}}")),
        Row("Experiments", (
            _money("cluster, experiment", "{{experiment}} {{cluster}}"),
            _table("Each experiment", "What each used, the largest first.",
                ("cluster", "account", "experiment"), "experiment"),
        )),
        Row("Jobs", (
            _table("Each job", "What each job used in the range, the largest first; what ended "
                "between two scrapes is in the sums above only.",
                ("cluster", "scheduler", "workload", "experiment"), "workload"),
        )),
    ),
    since="now-7d",
    tag="joulebook-users",
)  # fmt: skip

ACCOUNT = Board(
    "joulebook-account",
    "My account",
    "What an account used and cost, for a data source that a proxy narrows to the account.",
    _choices("account", "user", "experiment", "cluster"),
    (
        Row("", TOTALS),
        Row("Over time", _over_time("user", "{{user}}")),
        Row("Who and what", (
            _money("cluster, user", "{{user}} {{cluster}}"),
            _table("Each user", "What each used, the largest first.",
                ("cluster", "account", "user"), "experiment"),
            _table("Each experiment", "What each used, the largest first.",
                ("cluster", "account", "user", "experiment"), "experiment"),
        )),
    ),
    since="now-30d",
    tag="joulebook-users",
)  # fmt: skip
