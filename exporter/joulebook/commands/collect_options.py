"""The options of `joulebook collect`, `bill` and `relabel`: one ledger of many nodes."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Command = Callable[..., argparse.ArgumentParser]


def add(command: Command) -> None:
    """Add the three commands."""
    collect = command("collect", "many nodes' ledgers into one: sqlite or PostgreSQL")
    way = collect.add_mutually_exclusive_group()
    way.add_argument("--once", action="store_true", help="each node once, then end (for cron)")
    way.add_argument(
        "--check",
        action="store_true",
        help="compare what is collected with what the nodes' books say, and bills with both",
    )
    _bills(command)


def _bills(command: Command) -> None:
    """`bill` and `relabel`, which work on the collected ledger."""
    bill = command("bill", "what a month comes to by account, from the collected ledger")
    bill.add_argument(
        "action",
        nargs="?",
        choices=["show", "open", "close", "correct"],
        default="show",
        help="show a month (default); open: list the months that are open or closed; close one "
        "for ever; correct: take an amount from one owner and give it to another",
    )
    bill.add_argument("month", nargs="?", metavar="MONTH", help="2026-11 (default: this month)")
    bill.add_argument("--account", metavar="NAME", default="", help="only this one")
    bill.add_argument(
        "--format", choices=["text", "csv", "json"], default="text", help="default: text"
    )
    bill.add_argument(
        "--anyway", action="store_true", help="close: though nodes have not told all of the month"
    )
    owner = "ACCOUNT, ACCOUNT/USER/EXPERIMENT or a remainder: '(unallocated)'"
    bill.add_argument("--from", dest="giver", default="", metavar="OWNER", help=f"correct: {owner}")
    bill.add_argument("--to", dest="taker", default="", metavar="OWNER", help="correct: the same")
    bill.add_argument("--cost", metavar="AMOUNT", help="correct: money, like 12.50")
    bill.add_argument("--currency", metavar="CODE", default="EUR", help="default: %(default)s")
    bill.add_argument(
        "--item", choices=["electricity", "hardware"], default="electricity", help="of the money"
    )
    bill.add_argument("--kwh", type=float, metavar="KWH", help="correct: energy")
    bill.add_argument("--gpu-hours", type=float, metavar="HOURS", help="correct: held time")
    bill.add_argument("--co2e-kg", type=float, metavar="KG", help="correct: CO2e")
    relabel = command("relabel", "give a workload to another experiment, as an entry of the bill")
    relabel.add_argument("workload", metavar="ID", help="job id or displayed name")
    relabel.add_argument("--experiment", metavar="NAME", help="the experiment that it is of")
    relabel.add_argument("--account", metavar="NAME", help="the account that pays for it")
    relabel.add_argument("--cluster", metavar="NAME", default="", help="where ids are not unique")
    for sub in (bill, relabel):
        sub.add_argument("--by", metavar="NAME", help="who does it (default: you)")
    bill.add_argument("--why", metavar="TEXT", help="correct: the reason, kept for ever")
    relabel.add_argument("--why", metavar="TEXT", required=True, help="the reason, kept for ever")
