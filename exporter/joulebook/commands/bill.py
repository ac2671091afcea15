"""Implement `joulebook bill` and `relabel`: show, close and correct a month.

A correction is a separate entry, never an edit; so is a change of an experiment's name.
"""

from __future__ import annotations

import getpass
import os
import sys
import time

import click

from joulebook.commands.shared import lab_client as at_lab
from joulebook.commands.shared.advice_text import show_advice
from joulebook.commands.shared.charge_text import show_bill, show_periods
from joulebook.commands.shared.focus import as_focus
from joulebook.commands.shared.lab_client import LabClient, lab_client
from joulebook.commands.shared.options import AT_LAB, BillAction, Options, argument, command, option
from joulebook.commands.shared.text import moment
from joulebook.config import load
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError, InputError
from joulebook.lab import billing
from joulebook.lab.bill_formats import as_csv, as_json
from joulebook.lab.billing import WantedClose, WantedCorrection
from joulebook.lab.collected import bills, corrections, months
from joulebook.lab.collected.corrections import Reason
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.report.wording import listed
from joulebook.lab.web.bill_view import BillView, SeenBill
from joulebook.lab.web.viewer import Viewer
from joulebook.terminal import Screen

_MOST_ADVICE = 5
"""Lines of advice below a bill; `joulebook advise` has all."""


def main_relabel(args: Options) -> int:
    """Relabel one workload in the collected ledger."""
    config = load(args.config, os.environ)
    with opened(config.collect.url) as database:
        return _relabel(database, args, Screen())


def main(args: Options) -> int:
    """Show, list, close or correct; return 1 if a month cannot be closed because nodes are
    missing.
    """
    config = load(args.config, os.environ)
    _refuse_unused(args)
    if args.lab is not None or (config.lab.url and not config.collect.url):
        try:
            return _at_lab(lab_client(args.lab, config), args, Screen())
        except ValueError as error:
            raise ConfigError(str(error)) from None
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
        billing.refuse_unknown(database, BilledOwner("", args.account), "--account")
    with database.transaction(writes=False):
        view = BillView(database, Viewer(admin=True))
        seen = view.whole_bill(month, int(time.time()), args.account)
    _print(seen, args.format, screen)
    return 0


def _print(seen: SeenBill, form: str, screen: Screen) -> None:
    bill, measured, replayed, advice, served = seen
    if replayed:
        Screen(sys.stderr).say(
            f"Warning: {listed(replayed)}: data from a recorded trace (demo or replay): it was not "
            "measured there, and its jobs may be simulated."
        )
    if form == "json":
        screen.say(as_json(bill, measured, advice))
    elif form == "focus":
        screen.say(as_focus(bill, served))
    elif form == "csv":
        screen.say(as_csv(bill))
    else:
        show_bill(bill, screen, measured)
        if advice.advice:
            screen.say()
            screen.say("Where to save")
            screen.say()
            show_advice(advice, screen, _MOST_ADVICE)


def _at_lab(client: LabClient, args: Options, screen: Screen) -> int:
    """Do the same at the lab server, which knows what one may see and change."""
    if args.by:
        raise ConfigError("--by: not with --lab, where your name is known")
    if args.action in {"list", "open"}:
        show_periods(at_lab.periods(client), screen)
        return 0
    if args.action == "show":
        seen = at_lab.bill(client, months.shown(_month(args)), args.account)
        _print(seen, args.format, screen)
        return 0
    form = {"anyway": "yes"} if args.anyway else {}
    if args.action == "close":
        month = months.shown(_month(args, needed=True))
        done = client.post(f"/api/v1/bills/{month}/close", form)
        screen.say(f"{done['month']} is closed permanently, by {one_line(done['closed_by'])}")
        return 0
    form |= {"from": args.giver, "to": args.taker, "why": args.why or "", "item": args.item}
    form |= {"cost": args.cost or "", "currency": args.currency, "kwh": args.kwh or ""}
    form |= {"gpu-hours": args.gpu_hours or "", "co2e-kg": args.co2e_kg or ""}
    month = "open" if args.month is None and not args.last else months.shown(_month(args))
    done = client.post(f"/api/v1/bills/{month}/corrections", form)
    screen.say(f"correction {done['correction']} in the bill of {done['month']}: {args.why}")
    return 0


def _open(database: Database, args: Options, screen: Screen) -> int:
    show_periods(bills.with_sums(database), screen)
    return 0


def _close(database: Database, args: Options, screen: Screen) -> int:
    month = _month(args, needed=True)
    wanted = WantedClose(month, args.anyway)
    if late := billing.close(database, wanted, _who(args), int(time.time())):
        for node, told_s in late:
            reported = "incomplete" if not told_s else f"up to {moment(told_s)}"
            screen.say(f"{node}: collected {reported}")
        screen.say(
            f"{months.shown(month)} is not closed: anything these nodes have yet to report would "
            "become late entries of the next month. Collect them first, or close with --anyway"
        )
        return 1
    screen.say(f"{months.shown(month)} is closed permanently, by {_who(args)}")
    return 0


def _correct(database: Database, args: Options, screen: Screen) -> int:
    wanted = WantedCorrection(
        giver=args.giver, taker=args.taker, why=args.why or "", cost=args.cost,
        currency=args.currency, item=args.item, kwh=args.kwh, gpu_hours=args.gpu_hours,
        co2e_kg=args.co2e_kg, month=0 if args.month is None and not args.last else _month(args),
        anyway=args.anyway, mark="--",
    )  # fmt: skip
    number, month, giver, taker = billing.correct(database, wanted, _who(args), int(time.time()))
    screen.say(
        f"correction {number} in the bill of {months.shown(month)}: from {giver} to {taker}, by "
        f"{_who(args)}: {one_line(args.why)}"
    )
    return 0


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


def _relabel(database: Database, args: Options, screen: Screen) -> int:
    """Move one workload to another experiment or account."""
    if not args.experiment and not args.account:
        raise InputError("give --experiment, --account or both", reason="nothing")
    if args.account and not args.anyway:
        billing.refuse_unknown(database, BilledOwner("", args.account), "--account")
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


_BY = option("--by", metavar="NAME", help="Name to record as the author (default: yours).")


@command()
@argument(
    "action",
    type=BillAction(tuple(ACTIONS)),
    default="show",
    metavar="[ACTION]",
    help="show: print a month (default). list (or open): list the months. close: close a month "
    "permanently. correct: move an amount from one owner to another.",
)
@argument(
    "month",
    required=False,
    metavar="[MONTH]",
    help="Month, as in 2026-11. Default: this month; for a correction, the open month.",
)
@option("--last", is_flag=True, help="Use last month.")
@option(
    "--lab",
    **AT_LAB,
    help="At the lab server (default: lab.url), as far as you may; no right on a file is needed.",
)
@option("--account", metavar="NAME", default="", help="Show only this account.")
@option(
    "--format",
    type=click.Choice(["text", "csv", "json", "focus"]),
    default="text",
    show_default=True,
    help="Output format; focus: rows by FOCUS 1.0.",
)
@option(
    "--anyway",
    is_flag=True,
    help="close: even if nodes have not reported the whole month. correct: even if the owner or "
    "currency is new.",
)
@option(
    "--from",
    "giver",
    default="",
    metavar="OWNER",
    help="correct: owner to take from: ACCOUNT, ACCOUNT/USER/EXPERIMENT or a remainder such as "
    "'(unallocated)'.",
)
@option(
    "--to",
    "taker",
    default="",
    metavar="OWNER",
    help="correct: owner to give to, in the same form.",
)
@option("--cost", metavar="AMOUNT", help="correct: amount of money, such as 12.50.")
@option(
    "--currency",
    metavar="CODE",
    default="",
    help="correct: currency of --cost (default: the one billed).",
)
@option(
    "--item",
    type=click.Choice(["electricity", "hardware"]),
    default="electricity",
    help="correct: kind of cost.",
)
@option("--kwh", metavar="KWH", help="correct: amount of energy.")
@option("--gpu-hours", metavar="HOURS", help="correct: amount of GPU time held.")
@option("--co2e-kg", metavar="KG", help="correct: amount of CO2e.")
@_BY
@option("--why", metavar="TEXT", help="correct: reason, recorded permanently.")
def bill(options: Options) -> int:
    """Show, close or correct the bill of a month, in the collected ledger or at the lab server."""
    return main(options)


@command()
@argument("workload", metavar="ID", help="Job id or display name.")
@option("--experiment", metavar="NAME", help="New experiment.")
@option("--account", metavar="NAME", help="New account.")
@option("--anyway", is_flag=True, help="Allow an account that nothing was booked to.")
@option(
    "--cluster", metavar="NAME", default="", help="Cluster of the workload, if ids are not unique."
)
@_BY
@option("--why", metavar="TEXT", required=True, help="Reason, recorded permanently.")
def relabel(options: Options) -> int:
    """Move a workload to another experiment or account, as an entry of the bill."""
    return main_relabel(options)
