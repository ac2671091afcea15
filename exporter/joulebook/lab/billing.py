"""Close and correct months, as `joulebook bill` and the pages of the lab server do."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from joulebook.core.energy.readings import Component
from joulebook.core.evidence import ZERO, Amount, Remainder
from joulebook.core.money.amounts import Item
from joulebook.core.money.rates import NANO
from joulebook.core.report.dataset import Selection
from joulebook.core.report.rollup import lines
from joulebook.core.report.tally import ENOUGH
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import Labels
from joulebook.errors import ConfigError, InputError
from joulebook.lab.collected import audit, bills, corrections, months, report_query
from joulebook.lab.collected.bills import MonthBill
from joulebook.lab.collected.corrections import Reason, Transfer
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.report.wording import nearest
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

_AT_ONCE = 1000
"""So many workloads are asked for in one query."""

_MOST = 1 << 62
"""The most that one correction can move, in uJ or ns: the ledger's integers have 64 bits."""


class WantedCorrection(msgspec.Struct, frozen=True, kw_only=True):
    """A correction as a person asks for it; every amount is text, `None`: not given.

    Attributes:
        giver: Whom it is taken from: `ACCOUNT`, `ACCOUNT/USER/EXPERIMENT` or `(unallocated)`.
        taker: Who is given it.
        month: The month; 0: the open one.
        anyway: Whether owner, currency and month may be new.
        mark: What the names of settings begin with where the person sees them (`--`).

    """

    giver: str
    taker: str
    why: str
    cost: str | None = None
    currency: str = ""
    item: str = Item.ELECTRICITY.value
    kwh: str | None = None
    gpu_hours: str | None = None
    co2e_kg: str | None = None
    month: int = 0
    anyway: bool = False
    mark: str = ""


class WantedClose(NamedTuple):
    """A month to close; `anyway`: although nodes have not reported all of it."""

    month: int
    anyway: bool = False


def close(
    database: Database, wanted: WantedClose, who: str, now_s: int, how: str = audit.COMMAND
) -> list[tuple[str, int]]:
    """Close a month permanently, or return the nodes that have not reported all of it.

    `how` says how it is known who does so. Raises `InputError`.
    """
    is_over = wanted.month < months.month_of(now_s)
    late = bills.behind(database, wanted.month) if is_over and not wanted.anyway else []
    if not late:
        bills.close(database, wanted.month, who, now_s, how)
    return late


def correct(
    database: Database,
    wanted: WantedCorrection,
    who: str,
    now_s: int,
    how: str = audit.COMMAND,
) -> tuple[int, int, BilledOwner, BilledOwner]:
    """Write a correction; return its number, its month and both owners.

    Raises `ConfigError`, `InputError` and `ValueError`, and then nothing is changed.
    """
    amounts = _amounts(database, wanted)
    giver, taker = owner(wanted.giver), owner(wanted.taker)
    if not wanted.anyway:
        refuse_unknown(database, giver, f"{wanted.mark}from")
        refuse_unknown(database, taker, f"{wanted.mark}to")
    is_past = 0 < wanted.month < months.month_of(now_s)
    if is_past and not wanted.anyway and not bills.bill(database, wanted.month).lines:
        raise ConfigError(
            f"{months.shown(wanted.month)}: nothing was billed in it; {wanted.mark}anyway corrects "
            "it nevertheless, without a month it is the open one"
        )
    reason = Reason("correction", who, wanted.why, now_s, how)
    number, month = corrections.correct(database, giver, taker, amounts, reason, wanted.month)
    return number, month, giver, taker


def _amounts(database: Database, wanted: WantedCorrection) -> list[Transfer]:
    amounts = []
    if wanted.kwh is not None or wanted.gpu_hours is not None:
        energy_uj = _units(wanted.kwh or "0", UJ_PER_KWH)
        held_ns = _units(wanted.gpu_hours or "0", NS_PER_HOUR)
        amounts.append(Transfer("gpu", Amount(energy_uj, 0, held_ns)))
    if wanted.cost is not None:
        money = corrections.money(wanted.cost)
        if wanted.item not in {Item.ELECTRICITY, Item.HARDWARE}:
            raise ValueError(f"{wanted.item!r}: expected electricity or hardware")
        currency = _currency(database, wanted)
        amounts.append(Transfer(item=wanted.item, currency=currency, billed=money))
    if wanted.co2e_kg is not None:
        amounts.append(Transfer(item=Item.CO2E.value, billed=corrections.money(wanted.co2e_kg)))
    if not amounts:
        names = ", ".join(f"{wanted.mark}{name}" for name in ("cost", "kwh", "gpu-hours"))
        raise InputError(
            f"nothing to correct: give {names} or {wanted.mark}co2e-kg", reason="nothing"
        )
    return amounts


def _units(text: str, per: int) -> int:
    """Convert kWh or hours to the ledger's integers. Raises `ValueError`."""
    number = corrections.money(text)
    units = number.floor * per // NANO
    if units > _MOST:
        raise ValueError(f"{text}: too large for one correction")
    return units


def _currency(database: Database, wanted: WantedCorrection) -> str:
    """Return the currency of a correction. Raises `ConfigError` for one that is not billed."""
    billed = bills.currencies(database)
    key = f"{wanted.mark}currency"
    if not wanted.currency:
        if len(billed) != 1:
            have = f"; {' and '.join(billed)} are billed" if billed else ""
            raise ConfigError(f"{wanted.mark}cost {wanted.cost}: give {key}, too{have}")
        return billed[0]
    shown = one_line(wanted.currency, 20)
    if wanted.currency not in billed and not wanted.anyway:
        have = " and ".join(billed) or "nothing"
        raise ConfigError(f"{key} {shown}: {have} is billed; use {wanted.mark}anyway for a new one")
    if not re.fullmatch("[A-Z]{3}", wanted.currency):
        raise ConfigError(f"{key} {shown}: expected a code like EUR")
    return wanted.currency


def owner(text: str) -> BilledOwner:
    """Parse `ACCOUNT`, `ACCOUNT/USER/EXPERIMENT` or `(unallocated)`. Raises `ValueError`."""
    if text.startswith("(") and text.endswith(")"):
        if text[1:-1] not in set(Remainder):
            known = ", ".join(f"({each})" for each in Remainder)
            raise ValueError(f"{text!r}: expected one of {known}, or an account")
        return BilledOwner(text[1:-1])
    account, _, rest = text.partition("/")
    person, _, experiment = rest.partition("/")
    if not account:
        raise ValueError(f"{text!r}: expected ACCOUNT, ACCOUNT/USER/EXPERIMENT or (REMAINDER)")
    return BilledOwner("", account, person, experiment)


def refuse_unknown(database: Database, who: BilledOwner, name: str) -> None:
    """Raise `ConfigError` for an owner that nothing was booked to, suggesting similar ones."""
    asked = (who.account, who.person, who.experiment)
    there = bills.owners(database)
    parts = max((n for n, part in enumerate(asked, start=1) if part), default=0)
    if who.remainder or any(each[:parts] == asked[:parts] for each in there):
        return
    of_account = {"/".join(each) for each in there if each[0] == who.account}
    has = nearest("/".join(asked).rstrip("/"), of_account or {each[0] for each in there})
    raise ConfigError(
        f"{name} {one_line('/'.join(asked).rstrip('/'), 80)}: nothing was ever booked to it; "
        f"known: {has or 'nobody yet'}"
    )


def measured(database: Database, bill: MonthBill) -> dict[BilledOwner, float]:
    """Return the measured share of the GPU time that owners held in the month, if not all.

    Quarter hours are read only of workloads that may be measured in part. In the caller's
    transaction.
    """
    span = months.begin_s(bill.month), months.begin_s(months.after(bill.month))
    lost_ns: dict[BilledOwner, int] = {}
    found = bills.short(database, bill.month, bill.account)
    for some in (found[at : at + _AT_ONCE] for at in range(0, len(found), _AT_ONCE)):
        data = report_query.account(database, *span, Selection(workloads=frozenset(some)))
        for line in lines(data):
            if isinstance(line.owner, Labels):
                user, account, experiment = line.owner
                who = BilledOwner("", account, user, experiment)
                lost_ns[who] = lost_ns.get(who, 0) + line.held_ns - line.amount.held_ns
    booked_ns = {
        line.owner: line.used.get(Component.GPU, ZERO).held_ns
        for line in bill.lines
        if not (line.correction or line.late_for)
    }
    return {
        who: booked / (booked + lost_ns[who])
        for who, booked in booked_ns.items()
        if booked < ENOUGH * (booked + lost_ns.get(who, 0))
    }
