"""Serving: what models cost per token, idle apart, and the alert on what they may cost."""

from __future__ import annotations

from typing import Any

from dashboards.generator.board import Board, Row, label_values
from dashboards.generator.figures import NO_PRICE
from dashboards.generator.panel import EACH_NAMED, STACKED, Basis, Column, Panel, Query, stat
from dashboards.generator.promql import TARGET, by, chosen, one_of, ratio, selector

_MODEL = "cluster, account, experiment, model_name"
_WHO = chosen("cluster", "account", "experiment", "model_name")
_SERVERS = f"{TARGET}, instance"
"""Two lab servers show the same sums."""
_OUTPUT, _PROMPT = 'kind="output"', 'kind="prompt"'
_ACTIVE, _IDLE = 'state="active"', 'state="idle"'
_LATE = (
    "In the quarter hours that nodes have booked, so that energy follows the tokens by some 20 "
    "minutes."
)
_EMPTY = "No model server was read in the range"
_MOST = 12


def _rise(what: str, *matchers: str, window: str = "$__range", where: str = _WHO) -> str:
    """By how much a counter of served models rose.

    It never falls, and rises once in a quarter hour: what `increase` estimates beyond the samples
    would be up to a quarter hour wrong.
    """
    counter = selector(f"joulebook_serving_{what}_total", where, *matchers)
    last = one_of(_SERVERS, f"last_over_time({counter}[{window}])")
    before = one_of(_SERVERS, f"last_over_time({counter}[15m] offset {window})")
    first = one_of(_SERVERS, f"min_over_time({counter}[{window}])", "min")
    return f"{last}\n- (\n  ({before} <= {last})\n  or {first}\n)"


def _per_thousand(what: str, of: str, labels: str = _MODEL) -> str:
    """A counter per 1,000 of another; `labels` are those of both."""
    return (
        ratio(what, f"({by(_MODEL, of)} / 1000 > 0)")
        if labels == _MODEL
        else (f"({what})\n/ on ({_MODEL}) group_left ()\n({by(_MODEL, of)} / 1000 > 0)")
    )


_KWH = "{} / 3600000"


def _energy(*matchers: str, labels: str = "") -> str:
    return _KWH.format(by(labels, _rise("energy_joules", *matchers)))


def _stat(
    title: str,
    about: str,
    basis: Basis,
    unit: str,
    query: Query,
    **how: Any,  # noqa: ANN401 - further fields of a panel
) -> Panel:
    return stat(title, f"{about} {_LATE}", basis, unit, query, **{"empty": _EMPTY, **how})


_MONEY = {"decimals": 2, "options": EACH_NAMED, "empty": NO_PRICE}

TOTALS = (
    _stat("Output tokens", "Tokens that models wrote.", Basis.COUNTED, "locale",
        Query(by("", _rise("tokens", _OUTPUT)))),
    _stat("Prompt tokens", "Tokens that models read.", Basis.COUNTED, "locale",
        Query(by("", _rise("tokens", _PROMPT)))),
    _stat("Energy of models", "Of GPUs, and of hosts where they are measured, without idle time.",
        Basis.METERED, "kwatth", Query(_energy(_ACTIVE))),
    _stat("Idle energy", "Of servers that were allocated and produced nothing.",
        Basis.METERED, "kwatth", Query(_energy(_IDLE))),
    _stat("Cost of models", "Electricity and hardware, without idle time.", Basis.RATED, "locale",
        Query(by("currency", _rise("cost", _ACTIVE)), "{{currency}}"), **_MONEY),
    _stat("Cost of idle servers", "Electricity and hardware of servers that produced nothing.",
        Basis.RATED, "locale",
        Query(by("currency", _rise("cost", _IDLE)), "{{currency}}"), **_MONEY),
)  # fmt: skip

_PAID = f"{_MODEL}, currency"
_WHOSE = (
    Column("cluster", width=90),
    Column("account", width=110),
    Column("experiment", width=150),
    Column("model_name"),
)


def _table(title: str, about: str, basis: Basis, sort: str, *columns: Column) -> Panel:
    return Panel(title, f"{about} {_LATE}", basis, "none", kind="table", width=24, height=8,
        columns=(*_WHOSE, *columns), sort=sort, empty=_EMPTY)  # fmt: skip


_JOULES, _GRAMS = (by(_MODEL, _rise(what, _ACTIVE)) for what in ("energy_joules", "co2e_grams"))

PER_THOUSAND = _table(
    "Per 1,000 tokens",
    "All that a model's work took, by its tokens of one kind, the dearest first. Idle time is in "
    "none of it.",
    Basis.RATED,
    "Cost, output",
    Column("J, prompt", Query(_per_thousand(_JOULES, _rise("tokens", _PROMPT))), "locale", 1),
    Column("J, output", Query(_per_thousand(_JOULES, _rise("tokens", _OUTPUT))), "locale", 1),
    Column("g CO2e, output", Query(_per_thousand(_GRAMS, _rise("tokens", _OUTPUT))), "locale", 3),
    Column(
        "Cost, output",
        Query(_per_thousand(by(_PAID, _rise("cost", _ACTIVE)), _rise("tokens", _OUTPUT), _PAID)),
        "locale",
        4,
    ),
    Column("currency", width=80),
)

MODELS = _table(
    "Models",
    "What each produced, and the energy that it took, at work and idle.",
    Basis.METERED,
    "Energy (kWh)",
    Column("Energy (kWh)", Query(_energy(_ACTIVE, labels=_MODEL)), "locale", 2, total=True),
    Column("Idle (kWh)", Query(_energy(_IDLE, labels=_MODEL)), "locale", 2, total=True),
    *(
        Column(title, Query(by(_MODEL, _rise(*what))), "locale", 0, total=True)
        for title, what in (
            ("Prompt tokens", ("tokens", _PROMPT)),
            ("Output tokens", ("tokens", _OUTPUT)),
            ("Requests", ("requests",)),
        )
    ),
)

_SPAN = "2h"
"""Energy comes in quarter hours, which a shorter time would show as peaks."""
_MEAN = "Mean of the two hours before each point"


def _leading(query: str) -> Query:
    """The models with most of it at each step."""
    return Query(f"topk({_MOST}, {query})", "{{model_name}} {{experiment}}", "15m")


TREND = (
    Panel("Energy per 1,000 output tokens", f"{_MEAN}, without idle time.", Basis.METERED, "joule",
        (_leading(_per_thousand(
            by(_MODEL, _rise("energy_joules", _ACTIVE, window=_SPAN)),
            _rise("tokens", _OUTPUT, window=_SPAN))),),
        empty=_EMPTY),
    Panel("Output tokens per second", f"{_MEAN}.", Basis.COUNTED, "locale",
        (_leading(f"{by(_MODEL, _rise('tokens', _OUTPUT, window=_SPAN))} / 7200"),),
        empty=_EMPTY, decimals=1),
    Panel("Power of servers", f"At work, and idle. {_MEAN}.", Basis.METERED, "watt",
        (Query(f"{by('state', _rise('energy_joules', window=_SPAN))} / 7200", "{{state}}", "15m"),),
        width=24, custom=STACKED, empty=_EMPTY),
)  # fmt: skip

_COUNTER = "joulebook_serving_tokens_total"

DASHBOARD = Board(
    "joulebook-serving",
    "Joulebook / Serving",
    "What served models cost per token: energy, money and CO2e, idle time apart. From the lab "
    "server, which joins the token counters of model servers with the ledger.",
    (
        label_values("cluster", _COUNTER, "cluster"),
        label_values("account", f"{_COUNTER}{{{chosen('cluster')}}}", "account"),
        label_values("experiment", f"{_COUNTER}{{{chosen('cluster', 'account')}}}", "experiment"),
        label_values(
            "model_name",
            f"{_COUNTER}{{{chosen('cluster', 'account', 'experiment')}}}",
            "model_name",
            "Model",
        ),
    ),
    (Row("", TOTALS), Row("Models", (PER_THOUSAND, MODELS)), Row("Over time", TREND)),
    since="now-24h",
)


def dear() -> str:
    """Models whose last 6 hours cost more per 1,000 output tokens than `serving.cost_limits`."""
    cost = by(_PAID, _rise("cost", _ACTIVE, window="6h", where=""))
    tokens = _rise("tokens", _OUTPUT, window="6h", where="")
    limit = f"max by ({_PAID}) (joulebook_serving_cost_limit)"
    return f"{_per_thousand(cost, tokens, _PAID)}\n> on ({_PAID})\n{limit}"
