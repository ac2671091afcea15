"""What people are sent: the statement of a closed month, and a day on which much was idle.

A user's notice has the rows that the user sees on the lab's pages; an account's has totals that
name nobody, since a channel has more readers than the account's coordinators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from joulebook.config.lab_server import NoticeSection
from joulebook.core.evidence import ZERO, Amount, summed
from joulebook.core.money.amounts import Charges, total
from joulebook.core.sanitize import one_line
from joulebook.core.units_text import decimal
from joulebook.lab.collected import bills, months
from joulebook.lab.collected.database import Database
from joulebook.lab.figures import NOT_KNOWN, Figures, figures
from joulebook.lab.web.present import day
from joulebook.lab.web.view import Booked, JobFilter, LabView
from joulebook.lab.web.viewer import Viewer
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

STATEMENT, IDLE = "statement", "idle"

_RECENT_S = 10 * months.DAY_S
"""Months that were closed longer ago are not sent any more."""
_SETTLED_S = 6 * 3_600
"""So long after its end a day is looked at: nodes have been collected by then."""
_MOST_ROWS = 20
_LONGEST = 300


def _cleaned(value: object) -> object:
    return one_line(value, _LONGEST) if isinstance(value, str) else value


_templates = Environment(
    loader=PackageLoader("joulebook.lab.notices"),
    autoescape=select_autoescape(["html.j2"]),
    undefined=StrictUndefined,
    finalize=_cleaned,
    trim_blocks=True,
    lstrip_blocks=True,
)


class NoticeKey(NamedTuple):
    """What is sent once: `period` is a month (202611) or a day (UTC seconds)."""

    kind: str
    period: int
    person: str
    account: str


class Notice(NamedTuple):
    """A notice as it is sent, and where to."""

    key: NoticeKey
    to: tuple[str, ...]
    subject: str
    text: str
    html: str


class NoticeTable(NamedTuple):
    """Rows of a notice; each begins with a name."""

    title: str = ""
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def due(database: Database, settings: NoticeSection, url: str, now_s: int) -> Iterator[Notice]:
    """Yield what is to be sent now, whether it was sent or not; `url` is the lab server's."""
    with database.transaction(writes=False):
        closed = [
            each.month
            for each in bills.periods(database)
            if each.closed_s is not None and each.closed_s > now_s - _RECENT_S
        ]
        day_s = (now_s - _SETTLED_S) // months.DAY_S * months.DAY_S - months.DAY_S
        for user, to in settings.users.items():
            view = LabView(database, Viewer(user=user))
            for month in closed:
                yield from _statement(view, NoticeKey(STATEMENT, month, user, ""), to, url)
            yield from _idle(view, NoticeKey(IDLE, day_s, user, ""), to, url, settings)
        for account, to in settings.accounts.items():
            view = LabView(database, Viewer(coordinates=frozenset({account})))
            for month in closed:
                yield from _statement(view, NoticeKey(STATEMENT, month, "", account), to, url)
            yield from _idle(view, NoticeKey(IDLE, day_s, "", account), to, url, settings)


def _statement(view: LabView, key: NoticeKey, to: tuple[str, ...], url: str) -> Iterator[Notice]:
    by = ("account",) if key.account else ("account", "experiment")
    lines = [
        each
        for each in view.usage(key.period, by)
        if not key.account or each.owner.account == key.account
    ]
    if not lines:
        return
    lines.sort(key=lambda each: -each.amount.energy_uj)
    table = NoticeTable(
        "By experiment",
        ("experiment", "account", "kWh", "GPU-hours", "cost"),
        tuple(
            (
                each.owner.experiment or "(none)",
                f"account {each.owner.account or '(none)'}",
                f"{told.energy_kwh} kWh",
                f"{told.gpu_hours} GPU-hours",
                _money(told.cost),
            )
            for each in lines[:_MOST_ROWS]
            for told in [figures(each.by_component, each.charges)]
        ),
    )
    month = months.shown(key.period)
    remarks = [f"The bill of {month} is closed; it does not change any more."]
    if len(lines) > _MOST_ROWS:
        remarks.append(f"{len(lines) - _MOST_ROWS} more experiments are in the sums.")
    yield _notice(
        key, to, f"Energy statement {month} of {_whose(key)}", _facts(*_sums(lines)),
        NoticeTable() if key.account else table, [*remarks, f"{url}/?month={month}"],
    )  # fmt: skip


def _idle(
    view: LabView, key: NoticeKey, to: tuple[str, ...], url: str, settings: NoticeSection
) -> Iterator[Notice]:
    if not settings.idle_gpu_hours:
        return
    wanted = JobFilter(key.period, key.period + months.DAY_S, key.person, key.account)
    lines = [each for each in view.jobs(wanted) if each.amount.idle_ns]
    amounts, charges = _sums(lines)
    idle_ns = sum(each.idle_ns for each in amounts.values())
    if idle_ns < settings.idle_gpu_hours * NS_PER_HOUR:
        return
    lines.sort(key=lambda each: -each.amount.idle_ns)
    table = NoticeTable(
        "Jobs that idled the longest",
        ("job", "allocated but idle", "of", "cost of it"),
        tuple(
            (
                each.job.display or each.job.id.workload,
                f"{decimal(each.amount.idle_ns, NS_PER_HOUR)} GPU-hours idle",
                f"of {decimal(each.amount.held_ns, NS_PER_HOUR)}",
                _idle_money(figures(each.by_component, each.charges)),
            )
            for each in lines[:_MOST_ROWS]
        ),
    )
    told = figures(amounts, charges)
    when = day(key.period)
    facts = [
        ("Allocated but idle", f"{decimal(told.idle_ns, NS_PER_HOUR)} GPU-hours"),
        ("Allocated", f"{told.gpu_hours} GPU-hours"),
        ("Jobs that idled", f"{len(lines)}"),
        ("Cost of it", _idle_money(told)),
        ("Energy of it", f"{decimal(told.idle_uj, UJ_PER_KWH)} kWh"),
    ]
    title = f"GPUs of {_whose(key)} allocated but idle on {when}"
    yield _notice(
        key, to, title, facts, NoticeTable() if key.account else table,
        [f"{url}/jobs?month={when[:7]}"],
    )  # fmt: skip


def _whose(key: NoticeKey) -> str:
    return f"account {key.account}" if key.account else key.person


def _sums(lines: Sequence[Booked]) -> tuple[dict[str, Amount], Charges]:
    parts = (item for each in lines for item in each.by_component.items())
    return dict(summed(parts, {})), total(each.charges for each in lines)


def _facts(amounts: dict[str, Amount], charges: Charges) -> list[tuple[str, str]]:
    told = figures(amounts, charges)
    return [
        ("Energy", f"{told.energy_kwh} kWh"),
        *((f"  {name}", f"{decimal(amounts.get(name, ZERO).energy_uj, UJ_PER_KWH)} kWh")
          for name in told.energy_uj_by_component),
        ("GPU time", f"{told.gpu_hours} GPU-hours"),
        ("Allocated but idle", f"{decimal(told.idle_ns, NS_PER_HOUR)} GPU-hours"),
        ("Cost", _money(told.cost)),
        ("Cost of idle allocations", _idle_money(told)),
        ("CO2e", NOT_KNOWN if told.co2e_kg is None else f"{told.co2e_kg} kg"),
    ]  # fmt: skip


def _money(amounts: Mapping[str, str | None]) -> str:
    told = [f"{value} {name}" for name, value in amounts.items()]
    return NOT_KNOWN if None in amounts.values() else " and ".join(told) or NOT_KNOWN


def _idle_money(told: Figures) -> str:
    """Say what idle time cost, and what of that is hardware."""
    if not (told.idle_ns or told.idle_uj):
        return "none"
    cost, hardware = map(_money, (told.idle_cost, told.idle_hardware))
    return cost if NOT_KNOWN in {cost, hardware} else f"{cost}, of it hardware {hardware}"


def _notice(
    key: NoticeKey,
    to: tuple[str, ...],
    title: str,
    facts: Sequence[tuple[str, str]],
    table: NoticeTable,
    remarks: Sequence[str],
) -> Notice:
    parts = {"title": title, "facts": facts, "table": table, "remarks": remarks}
    text, html = (
        _templates.get_template(f"notice.{form}.j2").render(parts) for form in ("txt", "html")
    )
    return Notice(key, to, one_line(title, 150), text, html)
