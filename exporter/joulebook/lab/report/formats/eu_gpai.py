"""Energy and compute of the Model Documentation Form (EU, Code of Practice for GPAI, 2025).

Training energy in MWh and compute in FLOPs to two significant figures, training time in wall-clock
and hardware days, the method in about a hundred words; "N/A" where something is not known.
"""

from __future__ import annotations

from datetime import datetime

from joulebook.lab.report import wording
from joulebook.lab.report.formats.markdown import escape
from joulebook.lab.report.formats.templates import template
from joulebook.lab.report.model import Statement

NOT_APPLICABLE = "N/A"
_SECONDS_PER_DAY = 86_400
_HOURS_PER_DAY = 24
_FLOPS_PER_PFLOPS_DAY = 1e15 * _SECONDS_PER_DAY


def render(statement: Statement) -> str:
    """Return the section in Markdown."""
    energy = statement.energy
    kwh = energy.it.value if energy.facility.value is None else energy.facility.value
    values = {
        "title": statement.title,
        "mwh": _two(None if kwh is None else kwh / 1_000),
        "wall_days": _wall_days(statement),
        "hardware_days": "; ".join(
            f"{_two(gpu.gpu_hours / _HOURS_PER_DAY)} {gpu.model} days"
            for gpu in statement.inventory.gpus
        )
        or NOT_APPLICABLE,
        "flops": _two(_flops(statement)),
        "how_computed": _how_computed(statement),
        "how_measured": " ".join(_method(statement)),
    }
    return template("eu_gpai.md.j2", escape).render(values).rstrip("\n") + "\n"


def _two(value: float | None) -> str:
    """Return two significant figures: `12`, `2.0`, `0.0045`, `1.3e+22`."""
    if not value:
        return NOT_APPLICABLE if value is None else "0"
    rounded = float(f"{value:.2g}")
    if not 1e-4 <= abs(rounded) < 1e7:
        return f"{value:.1e}"
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:#.2g}"


def _wall_days(statement: Statement) -> str:
    what = statement.inventory
    if not what.started_utc or not what.ended_utc:
        return NOT_APPLICABLE
    start, end = (datetime.fromisoformat(each) for each in (what.started_utc, what.ended_utc))
    return _two((end - start).total_seconds() / _SECONDS_PER_DAY)


def _flops(statement: Statement) -> float | None:
    """Return the FLOPs as stated, else those of measured utilization; never of an assumed one."""
    if statement.result.flops is not None:
        return statement.result.flops
    compute = statement.compute
    if compute.pflops_days.value is None or compute.utilization.default:
        return None
    return compute.pflops_days.value * _FLOPS_PER_PFLOPS_DAY


def _how_computed(statement: Statement) -> str:
    if statement.result.flops is not None:
        return "stated by the developer"
    compute = statement.compute
    if compute.pflops_days.value is None or compute.utilization.default:
        return f"{NOT_APPLICABLE}: utilization was neither measured nor stated"
    return (
        f"GPU-hours x dense {compute.precision} peak x utilization of "
        f"{wording.figure(compute.utilization)} ({compute.utilization.source})"
    )


def _method(statement: Statement) -> list[str]:
    quality, energy = statement.quality, statement.energy
    methods = ", ".join(f"{each.name} {wording.percent(each.percent)}" for each in quality.methods)
    if statement.recorded_trace:
        first = f"Played from a recorded trace by {statement.made_by}, not measured."
    else:
        first = (
            f"Measured on every node by {statement.made_by} from the energy counters or power "
            f"sensors of the hardware, and attributed to jobs by the scheduler ({methods})."
        )
    said = [first, "All runs are included, also failed, cancelled and excluded ones."]
    if energy.host.value is None:
        said.append("Only accelerators were measured; hosts are not included.")
    else:
        said.append(
            f"Hosts are included where measured ({wording.percent(quality.host.value or 0)} of the "
            "GPU-hours)."
        )
    pue = [rate for rate in statement.rates if rate.quantity == "pue"]
    if energy.facility.value is None:
        said.append("Cooling and losses of the facility are not included: no PUE is known.")
    else:
        sources = "; ".join(rate.source for rate in pue)
        said.append(f"The facility is included by its PUE ({sources}).")
    covered = "an unknown share"
    if quality.coverage.value is not None:
        covered = wording.percent(quality.coverage.value)
    said.append(
        f"Readings cover {covered} of the time for which GPUs were held; the uncertainty of the "
        f"sensors is {quality.uncertainty.value or 0:.3g} %"
        + (" (default)." if quality.uncertainty.default else ".")
    )
    said.append("Not included: network, storage, and research on other hardware.")
    return said
