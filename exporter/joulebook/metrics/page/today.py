"""Today on the page: energy by experiment and by remainder, and what was charged for it."""

from __future__ import annotations

from collections.abc import Iterable

from joulebook.core import units_text
from joulebook.core.evidence import Remainder
from joulebook.core.money.amounts import NOTHING, Charge, Charges, Item, total
from joulebook.core.money.rates import PPM, Point, Quality
from joulebook.core.workloads import Labels
from joulebook.metrics.page import markup
from joulebook.metrics.page.markup import section, table, text
from joulebook.metrics.snapshot import Snapshot

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
    """What was booked since 00:00 UTC."""
    named = sorted(
        ((uj, who) for who, uj in view.today.items() if isinstance(who, Labels)), reverse=True
    )
    rest = sorted(
        ((uj, who) for who, uj in view.today.items() if isinstance(who, Remainder) and uj),
        reverse=True,
    )
    most = max((uj for uj, _ in (*named, *rest)), default=0) or 1
    rows = [
        _row(
            view,
            f"{text(who.experiment) or 'not named yet'} <small>{_owner(who)}</small>",
            uj,
            most,
            (who,),
        )
        for uj, who in named[:_MOST]
    ]
    if others := named[_MOST:]:
        whose = [who for _, who in others]
        rows.append(_row(view, f"{len(others)} more", sum(uj for uj, _ in others), most, whose))
    rows += [_row(view, _REMAINDERS[who], uj, most, (who,), "rest") for uj, who in rest]
    number, unit = units_text.energy(sum(view.today.values())).split("\u202f")
    head = f'<p class="big">{number}<small>{unit}</small></p>\n'
    if charged := _charged(total(view.today_bills.values())):
        head += f'<p class="dim">{", ".join(charged)}</p>\n'
    heads = ("Experiment", "Energy", *(["Charged"] if view.charges else []))
    listing = table("today", heads, rows) if rows else ""
    return section("Energy today", head + listing, note="since 00:00 UTC")


def _row(
    view: Snapshot,
    name: str,
    energy_uj: int,
    most_uj: int,
    whose: Iterable[Labels | Remainder],
    style: str = "",
) -> str:
    money = ""
    if view.charges:
        bill = total(view.today_bills.get(who, {}) for who in whose)
        money = f'<td class="num">{"<br>".join(_charged(bill)) or "not known"}</td>'
    return (
        f'<tr><th scope="row">{name}{markup.bar(energy_uj / most_uj, style=style)}</th>'
        f'<td class="num">{units_text.energy(energy_uj)}</td>{money}</tr>'
    )


def _charged(bill: Charges) -> list[str]:
    """A bill in words: money in each currency, then CO2e."""
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
    """The footer's lines on rates: which are in force, and which setting is missing."""
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
    default = ", a default" if point.quality is Quality.DEFAULT else ""
    return f" ({text(point.source)}{default})"


def _owner(labels: Labels) -> str:
    return text(" / ".join(filter(None, labels[:2])), 80)
