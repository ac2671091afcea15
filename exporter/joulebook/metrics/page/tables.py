"""The tables of the page: GPUs, workloads, and today's energy and charges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from joulebook.core import units_text
from joulebook.core.energy.audit import Verdict
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Remainder
from joulebook.core.ledger.series import OVERFLOW
from joulebook.core.ledger.state import WorkloadState
from joulebook.core.money.amounts import NOTHING, Charge, Charges, Item, total
from joulebook.core.money.rates import PPM, Point, Quality
from joulebook.core.report.tally import ENOUGH
from joulebook.core.workloads import Labels
from joulebook.metrics.derived import UNKNOWN, Derived
from joulebook.metrics.page import markup
from joulebook.metrics.page.markup import section, table, text
from joulebook.metrics.snapshot import DeviceStatus, Snapshot
from joulebook.units import NS_PER_S

_STALE_NS = 10 * NS_PER_S
"""A device read longer ago than this is marked."""

_MOST_WORKLOADS = 40
_GIB = 1 << 30


def gpus(derived: Derived) -> str:
    """The GPUs: what each draws, how busy it is, who holds it. A node without has no such table."""
    found = [status for _, status in derived.gpus]
    models = {status.model for status in found}
    rows = [_gpu_row(derived, status, one_model=len(models) == 1) for status in found]
    seen = {status.meter for status in found}
    rows += [
        f'<tr class="gone"><th scope="row">{text(meter.name, 24)}</th>'
        '<td colspan="3">not answering: its energy is a gap until it is read again</td></tr>'
        for meter in derived.books.meters
        if meter.component is Component.GPU and meter not in seen
    ]
    if not rows and derived.books.meters:
        return ""
    if not rows:
        return section("GPUs", '<p class="dim">No GPU has been read yet.</p>\n', wide=True)
    note = f"{len(found)} x {text(models.pop())}" if len(models) == 1 else ""
    listing = table("gpus", ("GPU", "Power", "In use", "Held by"), rows)
    return section("GPUs", listing, note=note, wide=True)


def _gpu_row(derived: Derived, status: DeviceStatus, *, one_model: bool) -> str:
    values = status.values
    under = [] if one_model else [text(status.model)]
    if (celsius := values.get("temperature_celsius")) is not None:
        under.append(units_text.unit(f"{celsius:.0f}", "°C"))
    if status.mig:
        cut = Counter(each.profile or "instance" for each in status.instances)
        listed = ", ".join(f"{count} x {profile}" for profile, count in sorted(cut.items()))
        under.append(f"MIG: {text(listed, 80) or 'no instance'}")
    state = derived.books.meters.get(status.meter)
    if state is not None and (audit := state.shown_audit).verdict is not Verdict.NONE:
        said = f"counter: {text(audit.said, 80)}"
        under.append(f"<strong>{said}</strong>" if audit.verdict is Verdict.WRONG else said)
    age_ns = derived.view.now_ns - status.t_ns
    if age_ns > _STALE_NS:
        under.append(f"read {units_text.duration(age_ns)} ago")
    power = use = '<span class="dim">not known</span>'
    if (power_w := values.get("power_watts")) is not None:
        power = units_text.watts(power_w)
        if limit_w := values.get("power_limit_watts"):
            power += f"{markup.bar(power_w / limit_w)}<small>of {units_text.watts(limit_w)}</small>"
    if (busy := values.get("utilization_ratio")) is not None:
        use = units_text.percent(busy) + markup.bar(busy)
        used, total = values.get("memory_used_bytes"), values.get("memory_total_bytes")
        if used is not None and total:
            use += (
                f"<small>{used / _GIB:.0f}/{units_text.unit(f'{total / _GIB:.0f}', 'GiB')}</small>"
            )
    return (
        f'<tr><th scope="row">{status.index}<small>{"<br>".join(under)}</small></th>'
        f"<td>{power}</td><td>{use}</td><td>{_holders(derived, status.meter)}</td></tr>"
    )


def _holders(derived: Derived, meter: Meter) -> str:
    holders = list(derived.holders(meter))
    unsettled = derived.unsettled(meter)
    said: list[str] = []
    for identity, share in holders:
        part = "" if share == 1 else f" ({units_text.percent(share)})"
        name, whose = text(identity[1], 32), text(" / ".join(filter(None, identity[2:])), 80)
        if identity == UNKNOWN:
            name, whose = "somebody", "not known who"
        said.append(f"<div>{name}{part}<small>{whose}</small></div>")
    if unsettled:
        said.append('<div class="dim">(starting)</div>')
    return "".join(said) or '<span class="dim">nobody</span>'


def workloads(derived: Derived) -> str:
    """Return the workloads that run or ran lately: what each consumed, and draws now."""
    states = derived.books.workloads
    power_w: dict[tuple[str, ...], float] = {}
    shared: set[tuple[str, ...]] = set()
    for status in derived.view.devices:
        for identity, share in derived.draws(status.meter):
            if (drawn := status.values.get("power_watts")) is not None:
                power_w[identity] = power_w.get(identity, 0.0) + drawn * share
                if share < 1:
                    shared.add(identity)
    rows = []
    listed = [(key, shown) for key, shown in derived.workloads.items() if key.scheduler != OVERFLOW]
    # Those that run first, the hungriest first; then those that ended, the latest first.
    listed.sort(
        key=lambda item: (
            states[item[0]].ended_ns is not None,
            -(states[item[0]].ended_ns or 0),
            -power_w.get(item[1].identity, 0.0),
            item[0],
        )
    )
    # The page shows what is booked, also while the series are still held at zero.
    top = listed[:_MOST_WORKLOADS]
    energies = units_text.energies([_energy_uj(states[key]) for key, _ in top])
    for (key, shown), energy in zip(top, energies, strict=True):
        power = power_w.get(shown.identity)
        about = "≈\u202f" if shown.identity in shared else ""
        now = "" if power is None else about + units_text.watts(power)
        measured = derived.coverage(key)
        rows.append(_workload_row(derived, states[key], shown.identity, energy, now, measured))
    if not rows:
        return section("Workloads", '<p class="dim">No workload yet.</p>\n', wide=True)
    listing = table("work", ("Workload", "Energy", "GPU time", "Power now"), rows)
    if (more := len(listed) - _MOST_WORKLOADS) > 0:
        listing += f'<p class="dim">and {more} more</p>\n'
    return section("Workloads", listing, note="now and lately", wide=True)


def _energy_uj(state: WorkloadState) -> int:
    return sum(amount.energy_uj for amount in state.balance.values())


def _workload_row(
    derived: Derived,
    state: WorkloadState,
    identity: tuple[str, ...],
    energy: str,
    power: str,
    measured: float | None,
) -> str:
    energy_uj = _energy_uj(state)
    idle_uj = sum(amount.idle_uj for amount in state.balance.values())
    held_ns = sum(a.held_ns for part, a in state.balance.items() if part is Component.GPU)
    idle = ""
    if energy_uj:
        style = ' class="idle"' if idle_uj * 4 > energy_uj else ""
        idle = f"<small{style}>{units_text.percent(idle_uj / energy_uj)} idle</small>"
    gone = ""
    if state.ended_ns is not None:
        gone = ' class="gone"'
        ago = units_text.duration(derived.view.now_ns - state.ended_ns)
        power = f"<small>ended<br>{ago} ago</small>"
    known = ""
    if measured is not None and measured < ENOUGH:
        known = f'<small class="idle">{units_text.percent(measured)} measured</small>'
    _, name, user, account, experiment = identity
    owner = " / ".join(filter(None, (user, account, experiment)))
    return (
        f'<tr{gone}><th scope="row">{text(name, 32)}<small>{text(owner, 120)}</small></th>'
        f'<td class="num">{energy}{idle}</td>'
        f'<td class="num">{units_text.duration(held_ns)}{known}</td>'
        f'<td class="num">{power}</td></tr>'
    )


_MOST = 6

_REMAINDERS = {
    Remainder.UNALLOCATED: "unallocated",
    Remainder.SYSTEM: "the system itself",
    Remainder.DAEMON_DOWN: "while Joulebook was down",
    Remainder.UNKNOWN_HOLDER: "held, not known by whom",
    Remainder.COUNTER_RESET: "lost with a counter's reset",
}

_CO2E = Charge(Item.CO2E)


def today(view: Snapshot) -> str:
    """Return the bookings since 00:00 UTC."""
    named = sorted(
        ((uj, who) for who, uj in view.today.items() if isinstance(who, Labels)), reverse=True
    )
    rest = sorted(
        ((uj, who) for who, uj in view.today.items() if isinstance(who, Remainder) and uj),
        reverse=True,
    )
    most = max((uj for uj, _ in (*named, *rest)), default=0) or 1
    found: list[tuple[str, int, Sequence[Labels | Remainder], str]] = [
        (f"{text(who.experiment) or 'not named yet'} <small>{_owner(who)}</small>", uj, [who], "")
        for uj, who in named[:_MOST]
    ]
    if others := named[_MOST:]:
        whose = [who for _, who in others]
        found.append((f"{len(others)} more", sum(uj for uj, _ in others), whose, ""))
    found += [(_REMAINDERS[who], uj, [who], "rest") for uj, who in rest]
    energies = units_text.energies([uj for _, uj, *_ in found])
    rows = [
        _row(view, name + markup.bar(uj / most, style=style), energy, whose)
        for (name, uj, whose, style), energy in zip(found, energies, strict=True)
    ]
    number, unit = units_text.energy(sum(view.today.values())).split("\u202f")
    head = f'<p class="big">{number}<small>{unit}</small></p>\n'
    if charged := _charged(total(view.today_bills.values())):
        head += f'<p class="dim">{", ".join(charged)}</p>\n'
    heads = ("Experiment", "Energy", *(["Charged"] if view.charges else []))
    listing = table("today", heads, rows) if rows else ""
    return section("Energy today", head + listing, note="since 00:00 UTC")


def _row(view: Snapshot, name: str, energy: str, whose: Iterable[Labels | Remainder]) -> str:
    money = ""
    if view.charges:
        bill = total(view.today_bills.get(who, {}) for who in whose)
        money = f'<td class="num">{"<br>".join(_charged(bill)) or "not known"}</td>'
    return f'<tr><th scope="row">{name}</th><td class="num">{energy}</td>{money}</tr>'


def _charged(bill: Charges) -> list[str]:
    """Return a bill in words: money in each currency, then CO2e."""
    said = []
    for currency in sorted({charge.currency for charge in bill if charge != _CO2E}):
        cost, hardware, credit = (
            bill.get(Charge(item, currency), NOTHING).floor
            for item in (Item.ELECTRICITY, Item.HARDWARE, Item.CREDIT)
        )
        said.append(units_text.money(cost + hardware - credit, text(currency)))
    if _CO2E in bill:
        said.append(f"{units_text.co2e(bill[_CO2E].floor)} CO₂e")
    return said


def in_force(view: Snapshot) -> str:
    """Return the footer's lines on rates: which are in force, and which setting is missing."""
    now = view.rates.at(int(view.utc_s))
    known = []
    if now.price is not None:
        price = units_text.money(now.price.value, f"{text(view.rates.currency)}/kWh")
        known.append(price + _source(now.price))
    if now.carbon is not None:
        known.append(f"{units_text.co2e(now.carbon.value)} CO₂e/kWh" + _source(now.carbon))
    if now.pue is not None:
        known.append(f"PUE {now.pue.value / PPM:.3g}" + _source(now.pue))
    lines = [f"<p>In force now: {', '.join(known)}.</p>\n"] if known else []
    lines += [
        f"<p>Not shown: {text(without)}, because <code>{text(key)}</code> is not "
        f"{'set' if key.startswith('rates.') else 'there'}.</p>\n"
        for key, without in view.lacking
    ]
    lines += [
        f"<p>The source of {text(feed.quantity)} does not answer well: {text(feed.source)}.</p>\n"
        for feed in view.feeds
        if not feed.up
    ]
    return "".join(lines)


def _source(point: Point) -> str:
    default = "; default" if point.quality is Quality.DEFAULT else ""
    return f" ({text(point.source, 120)}{default})"


def _owner(labels: Labels) -> str:
    return text(" / ".join(filter(None, labels[:2])), 80)
