"""The page at `/`: what the node draws, who holds it, and that the books balance.

Plain HTML with no script and no request but its own, so that it works everywhere: its policy
needs `style-src` only, for the one `<style>` element. Everything that comes from outside is cut,
cleaned and escaped in `markup`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from joulebook.core import units_text
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Method
from joulebook.core.ledger.state import Books
from joulebook.metrics.derived import Derived, pending_uj, shown_balance
from joulebook.metrics.page import markup
from joulebook.metrics.page.markup import lines, section, table, text
from joulebook.metrics.page.tables import gpus, in_force, today, workloads
from joulebook.metrics.snapshot import Snapshot
from joulebook.units import NS_PER_S

REFRESH_S = 5
REPLAY = "replay"
"""The kind of a sensor that plays a trace."""

_SPAN_S = 900.0
"""The longest time that the picture shows; a younger daemon's shows what there is."""

_STYLE = (Path(__file__).parent / "static/page.css").read_text("utf-8")

_HOST = {Component.CPU: "CPU", Component.DRAM: "memory"}

_METHODS = {
    Method.COUNTER: "read from the devices' counters",
    Method.INTEGRATED: "integrated from power",
    Method.MODELLED: "modelled",
    Method.APPORTIONED: "apportioned between several holders",
}


def _replayed(view: Snapshot) -> str:
    """Whoever sees the page of a demo must not take its figures for this machine's."""
    if all(sensor.kind != REPLAY for sensor in view.sensors):
        return ""
    return (
        '<p class="note">The power on this page is a <strong>recorded trace</strong>, played '
        "again. Nothing here is measured on this machine.</p>"
    )


def render_page(view: Snapshot, ready: bool, message: str) -> bytes:
    """Return the page for a view; `ready` and `message` are what `/readyz` says."""
    derived = Derived(view, None, {})
    where = f" in {text(view.cluster)}" if view.cluster else ""
    pill = '<span class="pill">ready</span>' if ready else '<span class="pill bad">not ready</span>'
    trouble = (
        "" if ready else f'<p class="state" role="alert"><strong>{lines(message)}</strong></p>'
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_S}">
<title>{text(view.node)}: Joulebook</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{text(view.node)}</h1>{pill}
<span class="of">Joulebook{where}, {units_text.clock(view.utc_s)}</span></header>
{trouble}{_replayed(view)}<main>
{_power(view)}
{today(view)}
{gpus(derived)}
{workloads(derived)}
{_books(view.books)}
</main>
<footer>
{in_force(view)}<p>≈: power shared by several workloads, split in proportion to their energy.
<a href="metrics">All figures for Prometheus</a>. Joulebook {text(view.build.version)}.</p>
</footer>
</body>
</html>
""".encode()


def _power(view: Snapshot) -> str:
    drawn_w = view.power_w
    if not drawn_w:
        return section("Power now", '<p class="dim">Nothing here says what power it draws.</p>')
    number, unit = units_text.watts(sum(drawn_w.values())).split("\u202f")
    picture = ""
    lasted_s = view.history[-1][0] - view.history[0][0] if view.history else 0.0
    if lasted_s > 0:
        # In whole units, so that the axis begins where its label says.
        unit_s = 60 if lasted_s >= 60 else 1
        span_s = min(math.ceil(lasted_s / unit_s) * unit_s, _SPAN_S)
        span = units_text.duration(round(span_s * NS_PER_S))
        values = [value for _, value in view.history]
        low, high = units_text.watts(min(values)), units_text.watts(max(values))
        label = f"Power over the last {span}, between {low} and {high}"
        picture = (
            markup.sparkline(view.history, span_s, label)
            + f'<p class="axis"><span>{span} ago</span><span>{low} to {high}</span>'
            "<span>now</span></p>"
        )
    return section(
        "Power now",
        f'<p class="big">{number}<small>{unit}</small></p>'
        f'<p class="dim">{_drawers(view, drawn_w)}</p>{picture}\n',
    )


def _drawers(view: Snapshot, drawn_w: Mapping[Component, float]) -> str:
    """What draws it: how many devices, how many of them are held, and the rest by component."""
    said = []
    if view.devices:
        count = len(view.devices)
        held = sum(bool(view.holders.get(s.meter)) for s in view.devices)
        kinds = {status.meter.component for status in view.devices}
        kind = "GPU" if kinds == {Component.GPU} else "device"
        said.append(f"{count} {kind}{'s' if count > 1 else ''}, {held} held")
    said += [
        f"{name} {units_text.watts(drawn_w[part])}"
        for part, name in _HOST.items()
        if part in drawn_w
    ]
    return "; ".join(said)


def _books(books: Books) -> str:
    booked_uj = sum(
        amount.energy_uj for e in books.experiments.values() for amount in shown_balance(e).values()
    )
    rest_uj = sum(books.remainders.values())
    waiting_uj = sum(pending_uj(books).values())
    meters_uj = sum(state.exposed_uj for state in books.meters.values())
    entries = (
        ("booked", "workloads", booked_uj),
        ("rest", "remainders", rest_uj),
        ("pending", "not booked yet", waiting_uj),
    )
    rows = [
        f'<tr><th scope="row">{markup.key(style)}{name}</th>'
        f'<td class="num">{units_text.exact(uj)}</td></tr>'
        for style, name, uj in entries
    ]
    foot = (
        '<tfoot><tr><th scope="row">= meters</th>'
        f'<td class="num">{units_text.exact(meters_uj)}</td></tr></tfoot>'
    )
    listing = table("books", ("Since the ledger began", "Energy"), rows, foot)
    if booked_uj + rest_uj + waiting_uj != meters_uj:
        listing += '<p class="idle">The books do not balance: please report this.</p>\n'
    return section(
        "The books",
        markup.parts([(style, uj) for style, _, uj in entries]) + listing + _known(books),
        wide=True,
    )


def _known(books: Books) -> str:
    total_uj = sum(books.method_uj.values())
    if not total_uj:
        return ""
    said = ", ".join(
        f"{units_text.percent(books.method_uj[method] / total_uj)} {how}"
        for method, how in _METHODS.items()
        if books.method_uj.get(method)
    )
    return f'<p class="dim">How it is known: {said}.</p>\n'
