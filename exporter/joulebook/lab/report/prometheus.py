"""Reports from Prometheus: /metrics shows what was booked, to the quantum.

The added error is bounded and stated with the figures: a value is floored to 1 J (2^-6 J below
1,000 J), and what a run consumed in the last seconds before an end of the range may be shown only
after it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Remainder, Subject
from joulebook.core.money.amounts import Charge, Exact, Item, RateUsed
from joulebook.core.money.rates import (
    NANO,
    PPM,
    RATIO_PPM,
    UG_PER_G,
    UG_PER_KWH,
    Quality,
    nano_per_kwh,
)
from joulebook.core.report.dataset import (
    WHOLE_METER,
    Charged,
    Posting,
    ReportData,
    ReportWorkload,
    Selection,
    Unknowable,
    UsedRate,
)
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.errors import ConfigError, SourceError
from joulebook.lab.report.prometheus_api import (
    PrometheusApi,
    Sample,
    exact,
    over_time,
    selector,
)
from joulebook.lab.report.prometheus_names import Names, Nodes, NodesName, shown_name
from joulebook.lab.report.sources import FOREVER_S
from joulebook.rates.tariff import defaults
from joulebook.units import NS_PER_S, UJ_PER_J

EDGE_S = 60
"""What a run consumes in this time may be missing at an end of the range: settling and two scrapes
of up to 20 s."""

_OWNER = ("cluster", "node", "scheduler", "workload", "user", "account", "experiment")
_W = "joulebook_workload_"
_R = "joulebook_remainder_"
_MOST_NAMED = 500
"""The most names in a matcher; for more runs, all are queried."""
_FINE_BELOW_J, _FINE_J, _COARSE_J = 1000, 1 / 64, 1.0

_UNKNOWN = {
    Unknowable.TIMES: "it has values by scrape, not the instants of start and end",
    Unknowable.METHOD: "methods are counted by node, not by run",
    Unknowable.COVERAGE: "gaps are counted by meter, not by run",
    Unknowable.GAPS: "gaps are counted by meter, not by run",
    Unknowable.QUARTERS: "the report asks it for the range as a whole",
}


class PrometheusSource:
    """A Prometheus, or what speaks its API, that scrapes the nodes."""

    def __init__(self, api: PrometheusApi) -> None:
        self._api = api

    @property
    def api(self) -> PrometheusApi:
        """The server, for questions that are no report's."""
        return self._api

    @property
    def name(self) -> str:
        """What people are shown."""
        return f"Prometheus at {self._api.where}"

    def account(self, since_s: int, until_s: int, selection: Selection) -> ReportData:
        """Return the increase in [since, until). Raises `SourceError`; `ConfigError` without a
        start.
        """
        if not since_s:
            raise ConfigError(
                "--since: expected one, since Prometheus does not say where it begins"
            )
        at_s = min(until_s, int(time.time()))
        if at_s <= since_s:
            raise ConfigError("--since: expected a time before --until and before now")
        try:
            return self._account(since_s, until_s, at_s, selection)
        except (KeyError, ValueError) as error:
            raise SourceError(
                f"{self._api.where}: a series that joulebook did not write: {one_line(str(error))}"
            ) from None

    def _account(self, since_s: int, until_s: int, at_s: int, selection: Selection) -> ReportData:
        asked = _Asked(self._api, since_s, at_s, selection, is_past=at_s == until_s)
        workloads = asked.workloads()
        postings = [*asked.postings(workloads)]
        charges = [*asked.charges()]
        if selection.everything:
            postings += [*asked.remainders()]
            charges += [*asked.remainder_charges()]
        folded = sum(s.value for s in asked.now("joulebook_overflow_total", "last", Selection()))
        warnings = [*self._api.warnings, *asked.nodes.warnings()]
        if folded:
            warnings.append(
                "some runs are under the name (overflow), since a limit of series was reached: "
                "their experiment is only in the ledgers"
            )
        return ReportData(
            self.name,
            since_s,
            until_s if until_s < FOREVER_S else at_s,
            tuple(postings),
            tuple(charges),
            workloads,
            tuple(asked.rates(postings)),
            known_until_s={row.node: at_s for row in postings},
            unknown=_UNKNOWN,
            error_ratio=asked.error_ratio(postings),
            warnings=tuple(warnings),
            cut=frozenset(asked.cut),
        )


class _Asked:
    """The questions of one report."""

    def __init__(
        self, api: PrometheusApi, since_s: int, at_s: int, wanted: Selection, *, is_past: bool
    ) -> None:
        self._api = api
        self._since_s, self._at_s = since_s, at_s
        self._span_s = at_s - since_s
        self._wanted = wanted
        self._alive: set[WorkloadId] = set()
        self.cut: set[WorkloadId] = set()
        self._is_past = is_past
        self._gpus: dict[WorkloadId, int] = {}
        self.nodes = Nodes(api, since_s, at_s)
        # A run that is over lingers: what did not grow is none of this time.
        energy = self.grown(f"{_W}energy_joules_total", (*_OWNER, "component"), wanted)
        held = self.grown(f"{_W}gpu_seconds_total", _OWNER, wanted)
        self._consumed, self._held = ([s for s in all_ if s.value > 0] for all_ in (energy, held))
        by, metric = ("cluster", "node", "component", "reason"), f"{_R}energy_joules_total"
        self._nobodys = self.grown(metric, by, wanted) if wanted.everything else []
        self._names = Names((*self._consumed, *self._held, *self._nobodys))

    def grown(self, metric: str, labels: Iterable[str], wanted: Selection) -> list[Sample]:
        query = exact(metric, wanted, labels, self._span_s, self.nodes.late)
        return self._api.instant(query, self._at_s)

    def now(self, metric: str, function: str, wanted: Selection) -> list[Sample]:
        # The end is not included: what came into force at it was not used.
        query = over_time(function, selector(metric, wanted), self._span_s - 1)
        return self._api.instant(query, self._at_s - 1)

    def workloads(self) -> dict[WorkloadId, ReportWorkload]:
        """Return the facts of the runs: owners from their counters, the rest from `_info`."""
        every = [s.labels for s in (*self._consumed, *self._held)]
        names = frozenset(labels.get("workload", "") for labels in every)
        info: dict[NodesName, dict[str, Mapping[str, str]]] = {}
        named = Selection(workloads=names if len(names) <= _MOST_NAMED else frozenset())
        for sample in self.now(f"{_W}info", "last", named) if names else ():
            # One that is stored twice is of one node.
            info.setdefault(shown_name(sample.labels), {})[self._names.node(sample.labels)] = (
                sample.labels
            )
        found: dict[WorkloadId, ReportWorkload] = {}
        for labels in every:
            key, reported = self._names.run(labels), info.get(shown_name(labels), {})
            # Each node tells of the GPUs that it saw held.
            self._gpus[key] = sum(_whole(each.get("gpu_count", "")) for each in reported.values())
            known = self._workload(key, labels, next(iter(reported.values()), {}))
            if key not in found or known.labels.user:
                found[key] = known
        return found

    def _workload(
        self, key: WorkloadId, labels: Mapping[str, str], about: Mapping[str, str]
    ) -> ReportWorkload:
        extra = ("partition", "image", "array", "gpu_model")
        return ReportWorkload(
            key,
            display=labels.get("workload", ""),
            name=about.get("name", ""),
            labels=Labels(*(labels.get(name, "") for name in Labels._fields)),
            gpu_count=self._gpus.get(key, 0),
            evidence=about.get("evidence", ""),
            extra={name: about[name] for name in extra if about.get(name)},
            cluster=labels.get("cluster", ""),
        )

    def postings(self, workloads: Mapping[WorkloadId, ReportWorkload]) -> Iterator[Posting]:
        """Energy by run, node and component; held time is with the GPUs."""
        by = (*_OWNER, "component")
        resting = self.grown(f"{_W}idle_energy_joules_total", by, self._wanted)
        idle = {self._key(sample): sample.value for sample in resting}
        held = {self._key(sample): sample.value for sample in self._held}
        self._note_alive()
        gpus = str(Component.GPU)
        for sample in self._consumed:
            node, key, component = self._key(sample)
            held_s = held.pop((node, key, ""), 0.0) if component == gpus else 0.0
            amount = Amount(
                round(sample.value * UJ_PER_J),
                round(idle.get((node, key, component), 0.0) * UJ_PER_J),
                round(held_s * NS_PER_S),
            )
            yield self._posting(node, key, component, amount, workloads)
        for (node, key, _), held_s in held.items():
            yield self._posting(node, key, gpus, Amount(0, 0, round(held_s * NS_PER_S)), workloads)

    def _posting(
        self,
        node: str,
        key: WorkloadId,
        component: str,
        amount: Amount,
        workloads: Mapping[WorkloadId, ReportWorkload],
    ) -> Posting:
        meter = Meter(Component(component), WHOLE_METER)
        known = workloads.get(key)
        evidence = known.evidence if known is not None else ""
        return Posting(node, key, meter, self._since_s, amount, None, evidence or None)

    def _note_alive(self) -> None:
        """The runs that started before the range, or still consumed energy at its end."""
        metric = f"{_W}energy_joules_total"
        begun = f"last_over_time({selector(metric, self._wanted)}[{2 * EDGE_S}s])"
        ending = exact(metric, self._wanted, (*_OWNER, "component"), EDGE_S)
        going_on = [s for s in self._api.instant(ending, self._at_s) if s.value > 0]
        known = {self._names.run(s.labels) for s in self._api.instant(begun, self._since_s)}
        goes_on = {self._names.run(s.labels) for s in going_on}
        self._alive |= known | goes_on
        self.cut |= known | (goes_on if self._is_past else set())

    def _key(self, sample: Sample) -> tuple[str, WorkloadId, str]:
        labels = sample.labels
        return self._names.node(labels), self._names.run(labels), labels.get("component", "")

    def charges(self) -> Iterator[Charged]:
        """Money and CO2e by run and node."""
        for sample in self.grown(f"{_W}cost_total", (*_OWNER, "kind", "currency"), self._wanted):
            yield self._money(sample, self._names.run(sample.labels), Item(sample.labels["kind"]))
        for sample in self.grown(f"{_W}credit_total", (*_OWNER, "currency"), self._wanted):
            yield self._money(sample, self._names.run(sample.labels), Item.CREDIT)
        for sample in self.grown(f"{_W}co2e_grams_total", _OWNER, self._wanted):
            yield self._co2e(sample, self._names.run(sample.labels))

    def remainders(self) -> Iterator[Posting]:
        """Unattributed energy."""
        for sample in self._nobodys:
            labels = sample.labels
            meter = Meter(Component(labels["component"]), WHOLE_METER)
            amount = Amount(round(sample.value * UJ_PER_J))
            subject = Remainder(labels["reason"])
            node = self._names.node(labels)
            yield Posting(node, subject, meter, self._since_s, amount, None, None)

    def remainder_charges(self) -> Iterator[Charged]:
        """Yield what it cost."""
        by = ("cluster", "node", "reason")
        for sample in self.grown(f"{_R}cost_total", (*by, "kind", "currency"), Selection()):
            yield self._money(
                sample, Remainder(sample.labels["reason"]), Item(sample.labels["kind"])
            )
        for sample in self.grown(f"{_R}credit_total", (*by, "currency"), Selection()):
            yield self._money(sample, Remainder(sample.labels["reason"]), Item.CREDIT)
        for sample in self.grown(f"{_R}co2e_grams_total", by, Selection()):
            yield self._co2e(sample, Remainder(sample.labels["reason"]))

    def _money(self, sample: Sample, subject: Subject, item: Item) -> Charged:
        charge = Charge(item, sample.labels["currency"])
        amount = Exact(*divmod(round(sample.value * NANO), NANO))
        return Charged(self._names.node(sample.labels), subject, self._since_s, charge, amount)

    def _co2e(self, sample: Sample, subject: Subject) -> Charged:
        amount = Exact(*divmod(round(sample.value * UG_PER_G), NANO))
        node = self._names.node(sample.labels)
        return Charged(node, subject, self._since_s, Charge(Item.CO2E), amount)

    def rates(self, postings: Iterable[Posting]) -> Iterator[UsedRate]:
        """Yield the gauges of rates: mean over time, minimum and maximum.

        Least and greatest have no weight; a mean weighs what its node consumed.
        """
        consumed: dict[str, int] = {}
        for row in postings:
            consumed[row.node] = consumed.get(row.node, 0) + row.amount.energy_uj
        for metric, quantity, per in (
            ("joulebook_pue_ratio", "pue", PPM),
            ("joulebook_electricity_price_per_kwh", "price", NANO),
            ("joulebook_carbon_intensity_grams_per_kwh", "carbon", UG_PER_G),
        ):
            for function in ("avg", "min", "max"):
                for labels, value in self.now(metric, function, Selection()):
                    node = self._names.node(labels)
                    if node not in consumed:
                        continue
                    source = labels.get("source", "")
                    quality = Quality.DEFAULT if source in defaults() else Quality.UNKNOWN
                    used = RateUsed(
                        self._since_s, quantity, round(value * per), _unit(quantity, labels),
                        source, quality,
                    )  # fmt: skip
                    mean = function == "avg"
                    yield UsedRate(used, consumed[node] if mean else 0, 0, node)

    def error_ratio(self, postings: Iterable[Posting]) -> float:
        """Return the relative error from flooring and the ends of the range."""
        floors_j = sum(_FINE_J if j < _FINE_BELOW_J else _COARSE_J for _, j in self._consumed)
        consumed_uj = edges_uj = 0.0
        held_ns: dict[WorkloadId, int] = {}
        energy: dict[WorkloadId, int] = {}
        for row in postings:
            consumed_uj += row.amount.energy_uj
            if isinstance(row.subject, WorkloadId) and row.subject in self._alive:
                energy[row.subject] = energy.get(row.subject, 0) + row.amount.energy_uj
                held_ns[row.subject] = held_ns.get(row.subject, 0) + row.amount.held_ns
        for key, energy_uj in energy.items():
            wall_ns = held_ns[key] // max(self._gpus.get(key, 0), 1)
            edges_uj += energy_uj * min(EDGE_S * NS_PER_S / max(wall_ns, 1), 1.0)
        return (floors_j * UJ_PER_J + edges_uj) / consumed_uj if consumed_uj else 0.0


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 0


def _unit(quantity: str, labels: Mapping[str, str]) -> str:
    if quantity == "price":
        return nano_per_kwh(labels.get("currency", ""))
    return {"pue": RATIO_PPM, "carbon": UG_PER_KWH}[quantity]
