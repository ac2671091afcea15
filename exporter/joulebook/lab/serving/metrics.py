"""What the lab server exposes of served models: sums that never fall, from the collected ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from joulebook.core.money.amounts import Exact, Item
from joulebook.core.money.rates import NANO
from joulebook.core.report.serving import Produced
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.served_query import ENERGY
from joulebook.lab.serving.reader import ServingReader
from joulebook.metrics.collector import Family
from joulebook.metrics.metric import Kind, Metric, Stability
from joulebook.units import UJ_PER_J

_OWNER = ("cluster", "account", "experiment", "model_name")
_SHOWN_S = 86_400
"""A model that produced nothing for so long is not exposed any more."""


def _metric(
    kind: Kind, name: str, help: str, unit: str = "", labels: tuple[str, ...] = ()
) -> Metric:
    return Metric(
        f"joulebook_serving_{name}", kind, help, unit, labels, stability=Stability.BETA, bare=True,
        sparse=True,
    )  # fmt: skip


_G, _C = Kind.GAUGE, Kind.COUNTER
_TOKENS = _metric(
    _C,
    "tokens_total",
    "Tokens of a served model, by `kind`: `prompt` or `output`. A kind that its server does not "
    "count is absent.",
    "",
    (*_OWNER, "kind"),
)
_REQUESTS = _metric(_C, "requests_total", "Requests that a served model answered.", "", _OWNER)
_JOULES = _metric(
    _C,
    "energy_joules_total",
    "Energy of a served model, by `state`: `active`, or `idle` (its server was allocated and "
    "produced nothing). `component` is `gpu` or `host`. It follows the tokens by the time in which "
    "nodes are collected.",
    "joules",
    (*_OWNER, "component", "state"),
)
_COST = _metric(
    _C,
    "cost_total",
    "What serving a model cost, by `kind` (`electricity`, `hardware`) and `state`.",
    "",
    (*_OWNER, "kind", "currency", "state"),
)
_CREDIT = _metric(
    _C,
    "credit_total",
    "Credit for its electricity at prices below zero.",
    "",
    (*_OWNER, "currency", "state"),
)
_GRAMS = _metric(
    _C, "co2e_grams_total", "CO2e of a served model, by `state`.", "grams", (*_OWNER, "state")
)
_LIMIT = _metric(
    _G,
    "cost_limit",
    "The most that 1,000 output tokens of a model may cost (`serving.cost_limits`).",
    "",
    (*_OWNER, "currency"),
)
_READ = _metric(_G, "servers", "Model servers whose token counters were read the last time.")
_ERRORS = _metric(
    _C, "errors_total", "Model servers that could not be read, by reason.", "", ("reason",)
)

SERVING: tuple[Metric, ...] = (
    _TOKENS, _REQUESTS, _JOULES, _COST, _CREDIT, _GRAMS, _LIMIT, _READ, _ERRORS,
)  # fmt: skip
"""Every metric of served models, in the order of exposition."""

_Samples = dict[Metric, list[tuple[tuple[str, ...], float]]]


def families(
    database: Database,
    now_s: float,
    reader: ServingReader | None,
    limits: Mapping[str, float],
    currency: str,
) -> list[Family]:
    """Return all of it."""
    found: _Samples = defaultdict(list)
    models: set[tuple[str, str, str, str]] = set()
    model = ", ".join(_OWNER)
    for cluster, account, experiment, name, item, money, idle, *parts in database.rows(
        f"SELECT {model}, item, currency, idle, whole, nano, rest FROM serving_totals"  # noqa: S608
        f" WHERE ({model}) IN (SELECT {model} FROM serving_totals WHERE changed_s > ?)"
        f" ORDER BY {model}, item, currency, idle",
        [int(now_s) - _SHOWN_S],
    ):
        of = (cluster, account, experiment, name)
        models.add(of)
        for metric, labels, value in _sample(
            item, money, "idle" if idle else "active", Exact(*parts)
        ):
            found[metric].append(((*of, *labels), value))
    for of in sorted(models):
        limit = next((v for text, v in limits.items() if fnmatchcase(of[-1], text)), None)
        if limit is not None:
            found[_LIMIT].append(((*of, currency), limit))
    if reader is not None:
        found[_READ].append(((), reader.read))
        found[_ERRORS] += [((reason,), n) for reason, n in sorted(reader.errors.copy().items())]
    return [Family(metric, found.get(metric, [])) for metric in SERVING]


def _sample(
    item: str, currency: str, state: str, amount: Exact
) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    if item == Produced.REQUESTS:
        yield _REQUESTS, (), amount.whole
    elif item in set(Produced):
        yield _TOKENS, (item,), amount.whole
    elif item in ENERGY:
        yield _JOULES, (item, state), amount.whole / UJ_PER_J
    elif item == Item.CO2E:
        yield _GRAMS, (state,), amount.floor / (NANO // 1000)
    elif item == Item.CREDIT:
        yield _CREDIT, (currency, state), amount.floor / NANO
    elif currency:
        yield _COST, (item, currency, state), amount.floor / NANO
