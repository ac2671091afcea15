"""What a metric is, as data: its name, type, help, labels and how coarse it is shown."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """The type of a metric."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Stability(StrEnum):
    """When a metric may change: with a major version if stable, with a minor one if beta."""

    STABLE = "stable"
    BETA = "beta"


class Quantum(StrEnum):
    """The step that a value is floored to when exposed (coarse values cost a third of the
    storage).
    """

    NONE = "exact"
    JOULES = "2^-6 below 1000 J, to 1 J above"
    SECONDS = "2^-10"
    GRAMS = "2^-10 g"
    MONEY = "2^-20"


class Metric(msgspec.Struct, frozen=True, gc=False):
    """One metric.

    Attributes:
        name: As in a sample.
        unit: A base unit.
        labels: Other than `node` and `cluster`.
        adds: Whether samples with the same labels are parts of one value, to be summed.
        sparse: Whether to leave out empty labels, as other exporters do.
        bare: Whether to leave out `node` and `cluster`.

    """

    name: str
    kind: Kind
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    quantum: Quantum = Quantum.NONE
    stability: Stability = Stability.STABLE
    since: str = "0.1.0"
    adds: bool = False
    sparse: bool = False
    bare: bool = False


GPU = ("gpu", "uuid")
OWNER = ("user", "account", "experiment")
WORKLOAD = ("scheduler", "workload", *OWNER)
METER = ("component", "meter")


_QUANTA = {"joules": Quantum.JOULES, "seconds": Quantum.SECONDS, "grams": Quantum.GRAMS}


def gauge(
    name: str,
    help: str,
    unit: str = "",
    labels: tuple[str, ...] = (),
    quantum: Quantum = Quantum.NONE,
    stability: Stability = Stability.STABLE,
    *,
    adds: bool = False,
) -> Metric:
    """Return a gauge of ours."""
    name = f"joulebook_{name}"
    return Metric(name, Kind.GAUGE, help, unit, labels, quantum, stability, adds=adds)


def counter(
    name: str,
    help: str,
    unit: str = "",
    labels: tuple[str, ...] = (),
    stability: Stability = Stability.STABLE,
    quantum: Quantum | None = None,
) -> Metric:
    """Return a counter of ours, floored as its unit is."""
    if quantum is None:
        quantum = _QUANTA.get(unit, Quantum.NONE)
    name = f"joulebook_{name}_total"
    return Metric(name, Kind.COUNTER, help, unit, labels, quantum, stability, adds=True)
