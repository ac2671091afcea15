"""`joulebook bill` and `relabel`: a month by account, closing it, correcting it by entries.

A correction (of an experiment's name, too) is an entry of its own, never an edit.
"""

from __future__ import annotations

import argparse
import getpass
import os
import time

from joulebook.commands.shared.bill_text import as_csv, as_json, show_bill, show_periods
from joulebook.commands.shared.text import Screen, moment
from joulebook.config import load
from joulebook.core.evidence import Amount, Remainder
from joulebook.core.money.amounts import Exact, Item
from joulebook.core.money.rates import NANO
from joulebook.errors import ConfigError, InputError
from joulebook.lab.collected import bills, corrections, rollup
from joulebook.lab.collected.corrections import Reason, Transfer
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.dimensions import BilledOwner
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH


def main_relabel(args: argparse.Namespace) -> int:
    """Relabel one workload in the collected ledger."""
    config = load(args.config, os.environ)
    with opened(config.collect.url) as database:
        return relabel(database, args, Screen())


def main(args: argparse.Namespace) -> int:
    """Show, open, close or correct; 1 if a month is not closed for want of nodes."""
    config = load(args.config, os.environ)
    with opened(config.collect.url) as database:
        try:
            return int(ACTIONS[args.action](database, args, Screen()))
        except ValueError as error:
            raise ConfigError(str(error)) from None


def _show(database: Database, args: argparse.Namespace, screen: Screen) -> int:
    month = _month(args)
    bill = bills.bill(database, month, args.account)
    if args.format == "json":
        screen.say(as_json(bill))
    elif args.format == "csv":
        screen.say(as_csv(bill))
    else:
        show_bill(bill, screen)
    return 0


def _open(database: Database, args: argparse.Namespace, screen: Screen) -> int:
    show_periods(database, bills.periods(database), screen)
    return 0


def _close(database: Database, args: argparse.Namespace, screen: Screen) -> int:
    month = _month(args, needed=True)
    late = bills.behind(database, month)
    if late and not args.anyway:
        for node, told_s in late:
            told = "not all of it" if not told_s else f"up to {moment(told_s)}"
            screen.say(f"{node}: collected {told}")
        screen.say(
            f"{rollup.shown(month)} is not closed: what these nodes still have to tell would "
            "become late entries of the next month; collect them first, or close it --anyway"
        )
        return 1
    bills.close(database, month, _who(args), int(time.time()))
    screen.say(f"{rollup.shown(month)} is closed for ever, by {_who(args)}")
    return 0


def _correct(database: Database, args: argparse.Namespace, screen: Screen) -> int:
    amounts = []
    if args.kwh is not None or args.gpu_hours is not None:
        energy_uj = round((args.kwh or 0) * UJ_PER_KWH)
        held_ns = round((args.gpu_hours or 0) * NS_PER_HOUR)
        amounts.append(Transfer("gpu", Amount(energy_uj, 0, held_ns)))
    if args.cost is not None:
        money = corrections.money(args.cost)
        amounts.append(Transfer(item=Item(args.item).value, currency=args.currency, billed=money))
    if args.co2e_kg is not None:
        carbon = Exact(*divmod(round(args.co2e_kg * NANO), NANO))
        amounts.append(Transfer(item=Item.CO2E.value, billed=carbon))
    if not amounts:
        raise InputError("nothing to correct: give --cost, --kwh, --gpu-hours or --co2e-kg",
                         reason="nothing")  # fmt: skip
    giver, taker = owner(args.giver), owner(args.taker)
    number = corrections.correct(database, giver, taker, amounts, _reason(args, "correction"))
    screen.say(f"correction {number}: from {giver} to {taker}, by {_who(args)}: {args.why}")
    return 0


def owner(text: str) -> BilledOwner:
    """`ACCOUNT`, `ACCOUNT/USER/EXPERIMENT` or `(unallocated)` as an owner. Raises `ValueError`."""
    if text.startswith("(") and text.endswith(")"):
        return BilledOwner(Remainder(text[1:-1]).value)
    account, _, rest = text.partition("/")
    person, _, experiment = rest.partition("/")
    if not account:
        raise ValueError(f"{text!r}: expected ACCOUNT, ACCOUNT/USER/EXPERIMENT or (REMAINDER)")
    return BilledOwner("", account, person, experiment)


def _month(args: argparse.Namespace, *, needed: bool = False) -> int:
    if args.month is None:
        if needed:
            raise ConfigError("which month? joulebook bill close 2026-10")
        return rollup.month_of(int(time.time()))
    return rollup.parsed(args.month)


def _who(args: argparse.Namespace) -> str:
    return str(args.by or os.environ.get("SUDO_USER") or getpass.getuser())


def _reason(args: argparse.Namespace, kind: str) -> Reason:
    return Reason(kind, _who(args), args.why or "", int(time.time()))


def relabel(database: Database, args: argparse.Namespace, screen: Screen) -> int:
    """`joulebook relabel`: whose a workload is."""
    if args.experiment is None and args.account is None:
        raise InputError("give --experiment, --account or both", reason="nothing")
    number, old, new = corrections.relabel(
        database,
        args.workload,
        (args.account, args.experiment),
        _reason(args, "relabel"),
        args.cluster,
    )
    what = f"correction {number}" if number else "nothing stood to its name yet"
    screen.say(f"{args.workload}: from {old} to {new} ({what}), by {_who(args)}: {args.why}")
    return 0


ACTIONS = {"show": _show, "open": _open, "close": _close, "correct": _correct}
