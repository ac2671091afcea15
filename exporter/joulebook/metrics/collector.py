"""Turn a snapshot into the families of the catalogue. A failing one is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from joulebook.core.attribution import gpu, host
from joulebook.core.attribution.claims import Evidence
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import NO_EVIDENCE, Amount, Method
from joulebook.core.ledger.state import Books
from joulebook.core.report.footprint import peaks_of
from joulebook.core.report.tally import ENOUGH
from joulebook.metrics import costs, node_meters
from joulebook.metrics.catalogue import (
    BY_NAME,
    CATALOGUE,
    SENSOR_ERROR_REASONS,
)
from joulebook.metrics.catalogue_gpu import DEVICE_COUNTERS, DEVICE_GAUGES
from joulebook.metrics.derived import (
    UNKNOWN,
    Derived,
    ProcessStats,
    joules,
    pending_uj,
    seconds,
    unexposed_uj,
)
from joulebook.metrics.metric import Metric
from joulebook.metrics.snapshot import Snapshot
from joulebook.units import MW_PER_W

Sample = tuple[tuple[str, ...], float]
"""The values of the metric's labels, and its value."""

ERRORS = BY_NAME["joulebook_exposition_errors_total"]


class Family(NamedTuple):
    """A metric and its samples."""

    metric: Metric
    samples: list[Sample]


class Collected(NamedTuple):
    """The families that could be made, and why the others could not, by name."""

    families: list[Family]
    failures: dict[str, Exception]


def _device(key: str, derived: Derived) -> Iterator[Sample]:
    for labels, status in derived.gpus:
        if (value := status.values.get(key)) is not None:
            yield labels, value


def _device_counts(name: str, derived: Derived) -> Iterator[Sample]:
    for labels, status in derived.gpus:
        for (counted, which), number in status.counts.items():
            if counted == name:
                yield (*labels, which) if which else labels, number


def _gpu_info(derived: Derived) -> Iterator[Sample]:
    for labels, s in derived.gpus:
        yield (*labels, s.vendor, s.model, s.driver, s.pci, "true" if s.mig else "false"), 1


def _held_ratio(derived: Derived) -> Iterator[Sample]:
    for labels, status in derived.gpus:
        for identity, share in derived.holders(status.meter):
            yield (*labels, *identity), share


def _peaks(derived: Derived) -> Iterator[Sample]:
    for labels, status in derived.gpus:
        for peak in peaks_of(status.model):
            yield (*labels, peak.precision, peak.source), peak.flops


def _budgets(derived: Derived) -> Iterator[Sample]:
    for allowed in derived.view.budgets:
        yield (allowed.account, allowed.experiment, allowed.unit), allowed.amount


def _throttle(derived: Derived) -> Iterator[Sample]:
    for labels, status in derived.gpus:
        for reason, throttled_ns in status.throttle_ns.items():
            yield (*labels, reason), seconds(throttled_ns)


def _workloads(energy_uj: Callable[[Amount], int], derived: Derived) -> Iterator[Sample]:
    for shown in derived.workloads.values():
        for component, amount in shown.balance.items():
            yield (*shown.identity, component), joules(energy_uj(amount))


def _workload_gpu_time(time_ns: Callable[[Amount], int], derived: Derived) -> Iterator[Sample]:
    for shown in derived.workloads.values():
        if (amount := shown.balance.get(Component.GPU)) is not None:
            yield shown.identity, seconds(time_ns(amount))


def _workload_coverage(derived: Derived) -> Iterator[Sample]:
    for key, shown in derived.workloads.items():
        if (share := derived.coverage(key)) is not None and share < ENOUGH:
            yield shown.identity, math.floor(share * 1000) / 1000


def _workload_tensor_time(derived: Derived) -> Iterator[Sample]:
    for shown in derived.workloads.values():
        amount = shown.balance.get(Component.GPU)
        if amount is not None and amount.tensor_known_ns:
            yield shown.identity, seconds(amount.tensor_ns)


def _workload_power(derived: Derived) -> Iterator[Sample]:
    power_mw: dict[tuple[str, ...], float] = {}
    for status in derived.view.devices:
        if (power_w := status.values.get("power_watts")) is None:
            continue
        for identity, share in derived.draws(status.meter):
            if identity is not UNKNOWN:
                labels = (*identity, status.meter.component)
                power_mw[labels] = power_mw.get(labels, 0.0) + power_w * MW_PER_W * share
    for labels, value in power_mw.items():
        yield labels, round(value) / MW_PER_W


def _workload_info(derived: Derived) -> Iterator[Sample]:
    # Of facts alone: what is only known while it holds devices would make a second series of it.
    # A name that came again is joined with what is known of the later one.
    latest = {shown.identity[:2]: shown.facts for _, shown in sorted(derived.workloads.items())}
    for name, facts in latest.items():
        labels = (
            facts.name,
            *(facts.extra.get(name, "") for name in ("partition", "image", "array")),
            str(facts.gpu_count) if facts.gpu_count else "",
            facts.extra.get("gpu_model", ""),
            facts.evidence,
        )
        yield (*name, *labels), 1


def _by_component(
    energy_uj: Callable[[Books], Mapping[Component, int]], derived: Derived
) -> Iterator[Sample]:
    for component, energy in energy_uj(derived.books).items():
        yield (component,), joules(energy)


def _experiments(derived: Derived) -> Iterator[Sample]:
    for labels, balance in derived.experiments.items():
        for component, amount in balance.items():
            yield (*labels, component), joules(amount.energy_uj)


def _experiments_idle(derived: Derived) -> Iterator[Sample]:
    # Of GPUs alone: an experiment has twelve series at most.
    for labels, balance in derived.experiments.items():
        if (amount := balance.get(Component.GPU)) is not None:
            yield (*labels, Component.GPU), joules(amount.idle_uj)


def _experiment_gpu_time(time_ns: Callable[[Amount], int], derived: Derived) -> Iterator[Sample]:
    for labels, balance in derived.experiments.items():
        if (amount := balance.get(Component.GPU)) is not None:
            yield labels, seconds(time_ns(amount))


def _evidence(derived: Derived) -> Iterator[Sample]:
    known = {**{each.label: 0 for each in Evidence}, gpu.HELD_SHARE: 0, NO_EVIDENCE: 0}
    if any(meter.component in host.COMPONENTS for meter in derived.books.meters):
        known[host.EVIDENCE] = 0
    if derived.books.node_meters:
        known[host.OTHER_EVIDENCE] = 0
    for label, energy_uj in {**known, **derived.books.evidence_uj}.items():
        yield (label,), joules(energy_uj)


def _method(derived: Derived) -> Iterator[Sample]:
    for method in Method:
        yield (method,), joules(derived.books.method_uj.get(method, 0))


def _overflow(derived: Derived) -> Iterator[Sample]:
    for budget, count in derived.books.overflow.items():
        yield ("exposition", budget), count


def _rejected(derived: Derived) -> Iterable[Sample]:
    return derived.view.rejected.items()


def _sensor_up(derived: Derived) -> Iterator[Sample]:
    for s in derived.view.sensors:
        yield (s.sensor, s.kind), int(s.up)


def _sensor_errors(derived: Derived) -> Iterator[Sample]:
    for s in derived.view.sensors:
        known = dict.fromkeys(SENSOR_ERROR_REASONS.get(s.sensor, ()), 0)
        for reason, count in {**known, **s.errors}.items():
            yield (s.sensor, s.kind, reason), count


def _sensor_last_success(derived: Derived) -> Iterator[Sample]:
    for s in derived.view.sensors:
        if s.last_success_s is not None:
            yield (s.sensor, s.kind), s.last_success_s


def _sensor_duration(derived: Derived) -> Iterator[Sample]:
    for s in derived.view.sensors:
        if s.took_s is not None:
            yield (s.sensor, s.kind), s.took_s


def _tick(derived: Derived) -> Iterator[Sample]:
    yield (), derived.view.tick_s


def _build(derived: Derived) -> Iterator[Sample]:
    build = derived.view.build
    yield (build.version, build.revision, build.python), 1


def _process(value: Callable[[ProcessStats], float], derived: Derived) -> Iterator[Sample]:
    if derived.process is not None:
        yield (), value(derived.process)


def _errors(derived: Derived) -> Iterator[Sample]:
    for family, count in derived.errors.items():
        yield (family,), count


PRODUCERS: Mapping[str, Callable[[Derived], Iterable[Sample]]] = {
    "joulebook_gpu_info": _gpu_info,
    "joulebook_gpu_held_ratio": _held_ratio,
    "joulebook_gpu_peak_flops": _peaks,
    **{metric.name: partial(_device, key) for key, metric in DEVICE_GAUGES.items()},
    **{metric.name: partial(_device_counts, key) for key, metric in DEVICE_COUNTERS.items()},
    "joulebook_gpu_throttle_seconds_total": _throttle,
    "joulebook_meter_energy_joules_total": node_meters.meters,
    "joulebook_meter_idle_watts": node_meters.idle_power,
    "joulebook_node_energy_joules_total": node_meters.node_energy,
    "joulebook_node_covered_energy_joules_total": node_meters.covered_energy,
    "joulebook_node_deficit_joules": node_meters.deficit,
    "joulebook_node_meter_omits": node_meters.omits,
    "joulebook_workload_energy_joules_total": partial(_workloads, lambda a: a.energy_uj),
    "joulebook_workload_idle_energy_joules_total": partial(_workloads, lambda a: a.idle_uj),
    "joulebook_workload_power_watts": _workload_power,
    "joulebook_workload_coverage_ratio": _workload_coverage,
    "joulebook_workload_gpu_seconds_total": partial(_workload_gpu_time, lambda a: a.held_ns),
    "joulebook_workload_idle_gpu_seconds_total": partial(_workload_gpu_time, lambda a: a.idle_ns),
    "joulebook_workload_tensor_seconds_total": _workload_tensor_time,
    "joulebook_workload_info": _workload_info,
    "joulebook_pending_energy_joules": partial(_by_component, pending_uj),
    "joulebook_unexposed_energy_joules": partial(_by_component, unexposed_uj),
    "joulebook_experiment_energy_joules_total": _experiments,
    "joulebook_experiment_idle_energy_joules_total": _experiments_idle,
    "joulebook_experiment_gpu_seconds_total": partial(_experiment_gpu_time, lambda a: a.held_ns),
    "joulebook_experiment_idle_gpu_seconds_total": partial(
        _experiment_gpu_time, lambda a: a.idle_ns
    ),
    "joulebook_remainder_gpu_seconds_total": node_meters.remainder_gpu_time,
    "joulebook_remainder_energy_joules_total": node_meters.remainders,
    "joulebook_evidence_energy_joules_total": _evidence,
    "joulebook_method_energy_joules_total": _method,
    **{
        f"joulebook_{whose}_{what}_total": partial(produce, bills)
        for whose, bills in (
            ("workload", costs.of_workloads),
            ("experiment", costs.of_experiments),
            ("remainder", costs.of_remainders),
        )
        for what, produce in (
            ("cost", costs.cost),
            ("credit", costs.credit),
            ("co2e_grams", costs.co2e),
        )
    },
    "joulebook_workload_idle_cost_total": partial(costs.idle_cost, costs.of_workloads),
    "joulebook_experiment_idle_cost_total": partial(costs.idle_cost, costs.of_experiments),
    "joulebook_unpriced_energy_joules_total": costs.unpriced,
    "joulebook_budget": _budgets,
    "joulebook_electricity_price_per_kwh": costs.price,
    "joulebook_carbon_intensity_grams_per_kwh": costs.intensity,
    "joulebook_pue_ratio": costs.pue,
    "joulebook_feed_up": costs.feed_up,
    "joulebook_feed_age_seconds": costs.feed_age,
    "joulebook_feed_errors_total": costs.feed_errors,
    "joulebook_gap_seconds_total": node_meters.gaps,
    "joulebook_foreign_use_seconds_total": node_meters.foreign_use,
    "joulebook_counter_power_ratio": node_meters.counter_power_ratio,
    "joulebook_overflow_total": _overflow,
    "joulebook_rejected_inputs_total": _rejected,
    "joulebook_sensor_up": _sensor_up,
    "joulebook_sensor_errors_total": _sensor_errors,
    "joulebook_sensor_last_success_timestamp_seconds": _sensor_last_success,
    "joulebook_sensor_duration_seconds": _sensor_duration,
    "joulebook_tick_duration_seconds": _tick,
    "joulebook_build_info": _build,
    "process_cpu_seconds_total": partial(_process, lambda p: p.cpu_s),
    "process_resident_memory_bytes": partial(_process, lambda p: p.resident_bytes),
    "process_virtual_memory_bytes": partial(_process, lambda p: p.virtual_bytes),
    "process_open_fds": partial(_process, lambda p: p.open_fds),
    "process_start_time_seconds": partial(_process, lambda p: p.start_s),
    ERRORS.name: _errors,
}
"""How each metric of the catalogue is made of the derived values."""


def collect(
    view: Snapshot, process: ProcessStats | None = None, errors: Mapping[str, int] | None = None
) -> Collected:
    """Return the families of `view`. `errors` says how often each family failed before now."""
    counts = dict(errors or {})
    derived = Derived(view, process, counts)
    families: list[Family] = []
    failures: dict[str, Exception] = {}
    # The count of failures comes last, so that it tells of this very collection.
    for metric in sorted(CATALOGUE, key=lambda metric: metric is ERRORS):
        try:
            families.append(Family(metric, list(PRODUCERS[metric.name](derived))))
        except Exception as error:
            failures[metric.name] = error
            counts[metric.name] = counts.get(metric.name, 0) + 1
    return Collected(families, failures)
