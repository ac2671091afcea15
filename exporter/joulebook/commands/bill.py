"""Implement `joulebook bill` and `relabel`: show, close and correct a month.

A correction is a separate entry, never an edit; so is a change of an experiment's name.
"""

from __future__ import annotations

import getpass
import os
import re
import sys
import time

from joulebook.commands.shared.charge_text import as_csv, as_json, show_bill, show_periods
from joulebook.commands.shared.focus import as_focus
from joulebook.commands.shared.options import Options
from joulebook.commands.shared.text import is_partial, moment
from joulebook.config import load
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import ZERO, Amount, Remainder
from joulebook.core.money.amounts import Item
from joulebook.core.money.rates import NANO
from joulebook.core.report.dataset import Selection
from joulebook.core.report.rollup import lines
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import Labels
from joulebook.errors import ConfigError, InputError
from joulebook.lab.collected import bills, corrections, months, report_query
from joulebook.lab.collected.bills import MonthBill
from joulebook.lab.collected.corrections import Reason, Transfer
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.report.wording import listed, nearest
from joulebook.terminal import Screen
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

_AT_ONCE = 1000
"""So many workloads are asked for in one query."""

_MOST = 1 << 62
"""The most that one correction can move, in uJ or ns: the ledger's integers have 64 bits."""


def main_relabel(args: Options) -> int:
    """Relabel one workload in the collected ledger."""
    config = load(args.config, os.environ)
    with opened(config.collect.url) as database:
        return relabel(database, args, Screen())


def main(args: Options) -> int:
    """Show, list, close or correct; return 1 if a month cannot be closed because nodes are
    missing.
    """
    config = load(args.config, os.environ)
    _refuse_unused(args)
    with opened(config.collect.url) as database:
        try:
            return int(ACTIONS[args.action](database, args, Screen()))
        except ValueError as error:
            raise ConfigError(str(error)) from None


_OF_CORRECT = {"--from": "giver", "--to": "taker", "--cost": "cost", "--currency": "currency",
               "--kwh": "kwh", "--gpu-hours": "gpu_hours", "--co2e-kg": "co2e_kg",
               "--why": "why"}  # fmt: skip


def _refuse_unused(args: Options) -> None:
    """Raise `ConfigError` for what was said and would be ignored."""
    names = {} if args.action == "correct" else dict(_OF_CORRECT)
    if args.action != "show":
        names["--account"] = "account"
    if args.action in {"list", "open"}:
        names |= {"--last": "last", f"{args.month}": "month"}
    for name, attribute in names.items():
        if getattr(args, attribute):
            raise ConfigError(f"{name}: not of `joulebook bill {args.action}`, see --help")


def _show(database: Database, args: Options, screen: Screen) -> int:
    month = _month(args)
    if args.account:
        _refuse_unknown(database, BilledOwner("", args.account), "--account")
    bill = bills.bill(database, month, args.account)
    measured = _measured(database, bill)
    if nodes := sorted({node for node, *_ in bills.replayed_meters(database)}):
        Screen(sys.stderr).say(
            f"Warning: {listed(nodes)}: data from a recorded trace (demo or replay): it was not "
            "measured there, and its jobs may be simulated."
        )
    if args.format == "json":
        screen.say(as_json(bill, measured))
    elif args.format == "focus":
        screen.say(as_focus(bill))
    elif args.format == "csv":
        screen.say(as_csv(bill))
    else:
        show_bill(bill, screen, measured)
    return 0


def _measured(database: Database, bill: MonthBill) -> dict[BilledOwner, float]:
    """Return the measured share of the GPU time that owners held in the month, if not all.

    Quarter hours are read only of workloads that may be measured in part.
    """
    span = months.begin_s(bill.month), months.begin_s(months.after(bill.month))
    lost_ns: dict[BilledOwner, int] = {}
    found = bills.short(database, bill.month, bill.account)
    for some in (found[at : at + _AT_ONCE] for at in range(0, len(found), _AT_ONCE)):
        with database.transaction(writes=False):
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
        if is_partial(booked, booked + lost_ns.get(who, 0))
    }


def _refuse_unknown(database: Database, who: BilledOwner, option: str) -> None:
    """Raise `ConfigError` for an owner that nothing was booked to, suggesting similar ones."""
    asked = (who.account, who.person, who.experiment)
    there = bills.owners(database)
    if who.remainder or any(
        all(part in {"", known} for part, known in zip(asked, each, strict=True)) for each in there
    ):
        return
    of_account = {"/".join(each) for each in there if each[0] == who.account}
    has = nearest("/".join(asked).rstrip("/"), of_account or {each[0] for each in there})
    raise ConfigError(
        f"{option} {one_line('/'.join(asked).rstrip('/'), 80)}: nothing was ever booked to it; "
        f"known: {has or 'nobody yet'}"
    )


def _open(database: Database, args: Options, screen: Screen) -> int:
    show_periods(database, bills.periods(database), screen)
    return 0


def _close(database: Database, args: Options, screen: Screen) -> int:
    month = _month(args, needed=True)
    late = bills.behind(database, month)
    if late and not args.anyway:
        for node, told_s in late:
            reported = "incomplete" if not told_s else f"up to {moment(told_s)}"
            screen.say(f"{node}: collected {reported}")
        screen.say(
            f"{months.shown(month)} is not closed: anything these nodes have yet to report would "
            "become late entries of the next month. Collect them first, or close with --anyway"
        )
        return 1
    bills.close(database, month, _who(args), int(time.time()))
    screen.say(f"{months.shown(month)} is closed permanently, by {_who(args)}")
    return 0


def _correct(database: Database, args: Options, screen: Screen) -> int:
    amounts = []
    if args.kwh is not None or args.gpu_hours is not None:
        energy_uj = _units(args.kwh or "0", UJ_PER_KWH)
        held_ns = _units(args.gpu_hours or "0", NS_PER_HOUR)
        amounts.append(Transfer("gpu", Amount(energy_uj, 0, held_ns)))
    if args.cost is not None:
        money = corrections.money(args.cost)
        currency = _currency(database, args)
        amounts.append(Transfer(item=Item(args.item).value, currency=currency, billed=money))
    if args.co2e_kg is not None:
        amounts.append(Transfer(item=Item.CO2E.value, billed=corrections.money(args.co2e_kg)))
    if not amounts:
        raise InputError("nothing to correct: give --cost, --kwh, --gpu-hours or --co2e-kg",
                         reason="nothing")  # fmt: skip
    giver, taker = owner(args.giver), owner(args.taker)
    if not args.anyway:
        _refuse_unknown(database, giver, "--from")
        _refuse_unknown(database, taker, "--to")
    month = 0 if args.month is None and not args.last else _month(args)
    is_past = 0 < month < months.month_of(int(time.time()))
    if is_past and not args.anyway and not bills.bill(database, month).lines:
        raise ConfigError(
            f"{months.shown(month)}: nothing was billed in it; --anyway corrects it nevertheless, "
            "without a month it is the open one"
        )
    reason = _reason(args, "correction")
    number, month = corrections.correct(database, giver, taker, amounts, reason, month)
    screen.say(
        f"correction {number} in the bill of {months.shown(month)}: from {giver} to {taker}, by "
        f"{_who(args)}: {one_line(args.why)}"
    )
    return 0


def _units(text: str, per: int) -> int:
    """Convert kWh or hours to the ledger's integers. Raises `ValueError`."""
    number = corrections.money(text)
    units = number.floor * per // NANO
    if units > _MOST:
        raise ValueError(f"{text}: too large for one correction")
    return units


def _currency(database: Database, args: Options) -> str:
    """Return the currency of a correction. Raises `ConfigError` for one that is not billed."""
    billed = bills.currencies(database)
    if not args.currency:
        if len(billed) != 1:
            have = f"; {' and '.join(billed)} are billed" if billed else ""
            raise ConfigError(f"--cost {args.cost}: give --currency, too{have}")
        return billed[0]
    if args.currency not in billed and not args.anyway:
        have = " and ".join(billed) or "nothing"
        raise ConfigError(
            f"--currency {one_line(args.currency, 20)}: {have} is billed; use --anyway "
            "for a new one"
        )
    if not re.fullmatch("[A-Z]{3}", args.currency):
        raise ConfigError(f"--currency {one_line(args.currency, 20)}: expected a code like EUR")
    return str(args.currency)


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


def _month(args: Options, *, needed: bool = False) -> int:
    if args.month is not None and args.last:
        raise ConfigError(f"--last and {args.month}: use only one of them")
    if args.last:
        return months.before(months.month_of(int(time.time())))
    if args.month is None:
        if needed:
            raise ConfigError("give the month, as in: joulebook bill close 2026-10")
        return months.month_of(int(time.time()))
    return months.parsed(args.month)


def _who(args: Options) -> str:
    return str(args.by or os.environ.get("SUDO_USER") or getpass.getuser())


def _reason(args: Options, kind: str) -> Reason:
    return Reason(kind, _who(args), args.why or "", int(time.time()))


def relabel(database: Database, args: Options, screen: Screen) -> int:
    """Move one workload to another experiment or account."""
    if not args.experiment and not args.account:
        raise InputError("give --experiment, --account or both", reason="nothing")
    if args.account and not args.anyway:
        _refuse_unknown(database, BilledOwner("", args.account), "--account")
    number, old, new = corrections.relabel(
        database,
        args.workload,
        (args.account or None, args.experiment or None),
        _reason(args, "relabel"),
        args.cluster,
    )
    what = f"correction {number}" if number else "nothing was billed to it yet"
    screen.say(
        f"{args.workload}: from {old} to {new} ({what}), by {_who(args)}: {one_line(args.why)}"
    )
    return 0


ACTIONS = {"show": _show, "list": _open, "open": _open, "close": _close, "correct": _correct}
