"""Implement `joulebook report`: a list of experiments, or a statement."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from joulebook.commands.report import past
from joulebook.commands.report.options import PARQUET, from_where, which_runs
from joulebook.commands.report.options import past as before_us
from joulebook.commands.report.options import statement as statement_options
from joulebook.commands.report.source import (
    bring_up_to_date,
    refuse_ambiguous,
    refuse_unknown,
    selection,
    source,
    stretch,
)
from joulebook.commands.shared.charge_text import as_object, figures
from joulebook.commands.shared.options import Options, command, option
from joulebook.commands.shared.text import LOWER_BOUND, energy, is_partial, moment, percent
from joulebook.config import Config, load
from joulebook.config.rates import missing
from joulebook.core.evidence import Remainder
from joulebook.core.money.amounts import INCLUDED, Charges, Exact, Item
from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.core.report.rollup import Level, ReportLine, net, whole
from joulebook.core.report.run_roles import RoleChoice
from joulebook.core.sanitize import clean, one_line
from joulebook.errors import ConfigError
from joulebook.lab.figures import CO2E, charges, co2e_column, money_columns
from joulebook.lab.report import rows, rows_parquet, sacct, signature, statement
from joulebook.lab.report.about import About, read_about
from joulebook.lab.report.by_owner import OwnerReport, charged_anew, make, with_site_water
from joulebook.lab.report.formats import FOR_PEOPLE, renderer
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.report.wording import sentence
from joulebook.terminal import Column, Screen, wrap
from joulebook.units import kwh_from_uj
from joulebook.untrusted_files import write_named


def write_statement(args: Options, config: Config) -> int:
    """Write the statement selected by the options, and what a reviewer needs to check it."""
    if args.sign is not None and args.output is None:
        raise ConfigError("--sign: give --output FILE too; the signature is written to FILE.sig")
    if args.rows is not None and args.rates is not None:
        raise ConfigError("--rows: not with --rates, which recomputes what the rows say")
    name = args.format or "text"
    if args.length is not None and name not in FOR_PEOPLE:
        raise ConfigError(f"--length: {name} has one length; expected {', '.join(FOR_PEOPLE)}")
    if name == PARQUET and (args.output is None or args.sign is not None):
        raise ConfigError(f"--format {PARQUET}: give --output FILE, without --sign")
    basis, anew = _gather(args, config)
    made = statement.make(*basis, anew)
    if args.rows is not None or args.sign is not None:
        made = msgspec.structs.replace(made, rows_sha256=rows.digest(basis))
    if name == PARQUET:
        _save("--output", args.output, rows_parquet.write_runs(made))
        if args.rows is not None:
            _save_rows(args.rows, basis)
        return 0
    text = renderer(name, args.length or "full")(made)
    signed = "" if args.sign is None else signature.sign(text, args.sign)
    if args.output is None:
        for line in text.splitlines():
            Screen().say(line)
    else:
        _save("--output", args.output, text)
    if args.rows is not None:
        _save_rows(args.rows, basis)
    if signed:
        _save("--sign", args.output.with_name(args.output.name + signature.SUFFIX), signed)
    return 0


def _save_rows(path: Path, basis: rows.Basis) -> None:
    form = rows_parquet if path.suffix == rows_parquet.SUFFIX else rows
    _save("--rows", path, form.write(basis))


def _gather(args: Options, config: Config) -> tuple[rows.Basis, statement.Recharge | None]:
    """Return what the statement is made of. Raises a `JoulebookError`."""
    about = read_about(args.about)
    if args.project:
        about = msgspec.structs.replace(about, title=args.project)
    asked, span, wanted = source(args, config), stretch(args), selection(args)
    if args.wait:
        bring_up_to_date(asked, args, config)
    account = asked.account(*span, wanted)
    refuse_unknown(asked, span, wanted, account)
    refuse_ambiguous(wanted, account)
    site = config if args.rates is None else load(args.rates, {})
    account = msgspec.structs.replace(account, rates=with_site_water(account, site.rates))
    anew = None
    if args.rates is not None:
        recharged = charged_anew(account, site.rates, os.environ)
        anew = statement.Recharge(args.rates.name, *recharged)
        for what, why in recharged.problems.items():
            Screen(sys.stderr).say(f"{what}: {why}")
    known, said = sacct.ask(account.workloads.values(), config.report.sacct)
    if said.startswith(sacct.NOBODY_SAYS):
        # Messages of a program on this machine do not belong in a paper.
        if not all(each.outcome for each in account.workloads.values()):
            Screen(sys.stderr).say(said)
        said = ""
    context = statement.StatementContext(time.time(), known, said, config.report, site.rates.zone)
    return rows.Basis(account, about, _choice(args, about), context), anew


def _choice(args: Options, about: About) -> RoleChoice:
    excluded = dict(about.exclude)
    for text in args.exclude:
        name, is_told, why = text.partition("=")
        if not name or not is_told or not why.strip():
            raise ConfigError(f"--exclude {text}: expected RUN=WHY, as in 105='wrong data'")
        excluded[name] = why.strip()
    return RoleChoice(
        args.best or about.best,
        tuple(args.runs) or about.sweep,
        excluded,
        tuple(args.final) or about.final,
        about.stages,
    )


def _save(option_name: str, path: Path, content: str | bytes) -> None:
    try:
        write_named(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ConfigError(f"{option_name} {path}: cannot be written: {error.strerror}") from None
    Screen(sys.stderr).say(clean(f"joulebook report: wrote {path}"))


LIMITS = (
    "Covers what the meters of these nodes measure. For embodied CO2e, coverage and single runs, "
    "write a statement: --experiment NAME, --format ..."
)


def main(args: Options) -> int:
    """Write a statement, or list experiments."""
    gc.disable()  # Rows hold no circles: to look for some is a quarter of the time.
    config = load(args.config, os.environ)
    if args.past is not None:
        return past.main(args, config, selects=bool(args.format) or _selects(args))
    if args.format or (not args.json and _selects(args)):
        return write_statement(args, config)
    new = None if args.rates is None else load(args.rates, {}).rates
    asked = source(args, config), *stretch(args), selection(args)
    report = make(*asked, level=Level(args.by), rates=new, environ=os.environ)
    lacking = []
    if new is not None or not (args.ledger or args.collected is not None or args.prometheus):
        charged = {charge.item for line in report.lines for charge in _newest(line)}
        lacking = [
            f"{each.key} is not set: no {each.without}"
            for each in missing(new or config.rates)
            if not charged & _NEEDED_FOR[each.key]
        ]
    if args.json:
        Screen().say(json.dumps({**_as_json(report), "missing": lacking}, indent=2))
    else:
        _show(report, lacking, args.by, Screen())
    return 0


_NEEDED_FOR: dict[str, set[Item]] = {
    "rates.price.kind": {Item.ELECTRICITY, Item.CREDIT},
    "rates.carbon.kind": {Item.CO2E},
    "rates.pue": {Item.ELECTRICITY, Item.CREDIT, Item.CO2E},
    "rates.hardware": {Item.HARDWARE},
}
"""The item that each setting gives: if it was charged, the setting was set at the time."""


def _newest(line: ReportLine) -> Charges:
    return line.booked if line.restated is None else line.restated


def _selects(args: Options) -> bool:
    return any(
        (args.experiment, args.user, args.account, args.workload, args.cluster, args.best,
         args.runs, args.exclude, args.final, args.project, args.about, args.output, args.rows,
         args.length, args.sign, args.wait)
    )  # fmt: skip


def _show(report: OwnerReport, lacking: list[str], by: str, screen: Screen) -> None:
    until = "now" if report.until_s == FOREVER_S else moment(report.until_s)
    begin = moment(report.since_s) if report.since_s else "the start of the ledger"
    screen.say(f"From {begin} to {until}")
    screen.say()
    rows = [*report.lines, *([whole(report.lines)] if len(report.lines) > 1 else [])]
    names = [*map(_name, report.lines), "in all"][: len(rows)]
    columns = figures([(each.amount, each.booked) for each in rows], [x.held_ns for x in rows])
    if any(line.restated is not None for line in rows):
        columns += charges([line.restated or {} for line in rows], " at new")
        differences = [_differ(line.booked, line.restated or {}) for line in rows]
        columns += money_columns("cost +/-", differences, "+")
        changed = [_changed_ug(line.restated or {}, line.booked) for line in rows]
        columns.append(co2e_column("CO2e +/-", changed, "+"))
    titles = [Column(by, name=True), *(Column(each.title, right=True) for each in columns)]
    cells = [list(row) for row in zip(names, *(each.cells for each in columns), strict=True)]
    for text in screen.table(titles, cells):
        screen.say(text)
    screen.say()
    partial = any(is_partial(line.amount.held_ns, line.held_ns) for line in rows)
    for said in (*([LOWER_BOUND] if partial else ()), *_used(report)):
        screen.say(said)
    for item, energy_uj in report.unpriced_uj.items():
        screen.say(f"The new rates have no {item} for {energy(energy_uj)}: not charged")
    for text in (*lacking, *(sentence(f"Warning: {each}") for each in report.warnings)):
        for line in wrap(one_line(text, 1_000), screen.width):
            screen.say(line)
    for line in wrap(LIMITS, screen.width):
        screen.say(line)


def _name(line: ReportLine) -> str:
    if isinstance(line.owner, Remainder):
        return f"({line.owner})"
    user, account, experiment = line.owner
    return one_line(" / ".join(filter(None, (account, user, experiment))) or "(no label)", 80)


def _differ(old: Charges, new: Charges) -> dict[str, Exact]:
    """Return the difference in money; none if the new rates leave out what was booked."""
    paid = {charge.item for charge in old} - {Item.CO2E, Item.CREDIT} - INCLUDED
    if not paid <= {charge.item for charge in new} | (
        {Item.ELECTRICITY} if _credited(new) else set()
    ):
        return {}
    before, after = net(old), net(new)
    return {
        currency: Exact.of(after.get(currency, Exact()).atoms - before.get(currency, Exact()).atoms)
        for currency in sorted({*before, *after})
    }


def _credited(bill: Charges) -> bool:
    return any(charge.item is Item.CREDIT for charge in bill)


def _changed_ug(new: Charges, old: Charges) -> int | None:
    if CO2E not in new:
        return None
    return Exact.of(new[CO2E].atoms - old.get(CO2E, Exact()).atoms).floor


def _grams(new: Charges, old: Charges) -> float | None:
    changed_ug = _changed_ug(new, old)
    return None if changed_ug is None else changed_ug / UG_PER_G


def _shares(report: OwnerReport) -> dict[tuple[str, str, str], tuple[int, int, int, int]]:
    """Return energy and time charged, and the range of values, by quantity, source and quality."""
    found: dict[tuple[str, str, str], tuple[int, int, int, int]] = {}
    for used, energy_uj, held_ns, _ in report.used:
        key = (used.quantity, used.source, str(used.quality))
        e, h, low, high = found.get(key, (0, 0, used.value, used.value))
        found[key] = (e + energy_uj, h + held_ns, min(low, used.value), max(high, used.value))
    return found


def _used(report: OwnerReport) -> Iterator[str]:
    shares = _shares(report)
    totals: dict[str, int] = {}
    for (quantity, _, _), (energy_uj, held_ns, _, _) in shares.items():
        totals[quantity] = totals.get(quantity, 0) + (energy_uj or held_ns)
    for (quantity, name, quality), (energy_uj, held_ns, _, _) in shares.items():
        part = percent(energy_uj or held_ns, totals[quantity])
        said = f"{one_line(quantity)} as booked: {one_line(name)} ({quality})"
        yield f"{said} for {part} of what was charged"


def _as_json(report: OwnerReport) -> dict[str, Any]:
    return {
        "version": 1,
        "since_utc_s": report.since_s or None,
        "until_utc_s": None if report.until_s == FOREVER_S else report.until_s,
        "lines": [_line(line) for line in report.lines],
        "rates_used": [
            {"quantity": q, "source": s, "quality": k, "energy_kwh": kwh_from_uj(e),
             "held_gpu_hours": h / 3.6e12, "least": low, "greatest": high}
            for (q, s, k), (e, h, low, high) in _shares(report).items()
        ],
        "unpriced_kwh": {k: kwh_from_uj(v) for k, v in report.unpriced_uj.items()},
        "warnings": list(report.warnings),
        "limits": LIMITS,
    }  # fmt: skip


def _line(line: ReportLine) -> dict[str, Any]:
    owner: dict[str, str]
    if isinstance(line.owner, Remainder):
        owner = {"remainder": str(line.owner)}
    else:
        owner = dict(zip(line.owner._fields, line.owner, strict=True))
    found: dict[str, Any] = {
        **owner,
        "energy_kwh": kwh_from_uj(line.amount.energy_uj),
        "energy_uj": line.amount.energy_uj,
        "idle_energy_uj": line.amount.idle_uj,
        "held_gpu_hours": line.held_ns / 3.6e12,
        "coverage": line.coverage,
        "booked": as_object(line.booked),
    }
    if line.restated is not None:
        new = line.restated
        found["restated"] = as_object(new)
        money = _differ(line.booked, new)
        found["difference"] = {
            "cost": {currency: amount.floor / NANO for currency, amount in money.items()},
            "co2e_grams": _grams(new, line.booked),
        }
    return found


@command(
    epilog="Without options that select or format, all experiments are listed. With them, a "
    "statement is written: energy, cost and CO2e of the selection, and how each is known.",
    several=["--runs", "--final"],
)
@from_where()
@which_runs()
@before_us()
@statement_options()
@option(
    "--by",
    heading="The list",
    type=click.Choice(["experiment", "user", "account", "lab"]),
    default="experiment",
    help="Group the list by this (default: experiment).",
)
@option("--json", heading="The list", is_flag=True, help="Print the list as one JSON object.")
def report(options: Options) -> int:
    """Report the energy, cost and CO2e of experiments, as a list or a statement."""
    return main(options)
