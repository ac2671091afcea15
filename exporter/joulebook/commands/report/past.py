"""Implement `joulebook report --past`: what another exporter's samples say of the time before."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from joulebook.commands.report.source import prometheus_api, stretch
from joulebook.commands.shared.charge_text import as_object, figures
from joulebook.commands.shared.options import Options
from joulebook.commands.shared.text import energy, moment, percent
from joulebook.config import Config, load
from joulebook.core.evidence import ZERO, Amount, Remainder, Subject
from joulebook.core.money.amounts import NOTHING, Charge, Exact
from joulebook.core.report.dataset import ReportData
from joulebook.core.report.rollup import Recharged
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.lab.report import sacct
from joulebook.lab.report.by_owner import charged_anew
from joulebook.lab.report.past import Past, PastReport
from joulebook.lab.report.wording import listed
from joulebook.node.workloads.slurm.hostlist import expand
from joulebook.terminal import Column, Screen, wrap
from joulebook.units import kwh_from_uj

MARK = "From another exporter's samples, not measured by Joulebook"
_NOBODYS = "(not attributed)"
K = TypeVar("K", bound=Hashable)


def main(args: Options, config: Config, *, selects: bool) -> int:
    """List the past by node and month, and by who can be told to have held GPUs."""
    if selects or args.prometheus or args.ledger or args.collected is not None:
        raise ConfigError(
            "--past: is a list of its own; give --since, --until, --rates and --json only: a "
            "statement rests on what Joulebook booked"
        )
    since_s, until_s = stretch(args)
    past = Past(prometheus_api(args.past, args), since_s, until_s)
    jobs, why = sacct.with_gpus(since_s, past.until_s, config.report.sacct)
    found = past.read(jobs, why, expand)
    rates = config.rates if args.rates is None else load(args.rates, {}).rates
    again = charged_anew(found.data, rates, os.environ)
    if args.json:
        Screen().say(json.dumps(_as_json(found, again), indent=2))
    else:
        _show(found, again, Screen())
    return 0


Sums = dict[K, tuple[Amount, dict[Charge, Exact]]]


def _by_month(data: ReportData) -> Sums[tuple[str, str]]:
    """Return what each node consumed, by month."""
    sums: Sums[tuple[str, str]] = {}
    for row in data.postings:
        _energy(sums, (row.node, _month(row.quarter_s)), row.amount)
    for each in data.charges:
        _money(sums, (each.node, _month(each.quarter_s)), each.charge, each.amount)
    return sums


def _by_subject(data: ReportData) -> Sums[Subject]:
    sums: Sums[Subject] = {}
    for row in data.postings:
        _energy(sums, row.subject, row.amount)
    for each in data.charges:
        _money(sums, each.subject, each.charge, each.amount)
    return sums


def _energy(sums: Sums[K], key: K, amount: Amount) -> None:
    known, bill = sums.get(key, (ZERO, {}))
    sums[key] = known.plus(amount), bill


def _money(sums: Sums[K], key: K, charge: Charge, amount: Exact) -> None:
    _, bill = sums.setdefault(key, (ZERO, {}))
    bill[charge] = bill.get(charge, NOTHING).plus(amount)


def _month(quarter_s: int) -> str:
    return f"{datetime.fromtimestamp(quarter_s, UTC):%Y-%m}"


def _show(found: PastReport, again: Recharged, screen: Screen) -> None:
    data = again.account
    screen.say(f"{MARK}: {data.source}")
    screen.say(f"From {moment(data.since_s)} to {moment(data.until_s)}")
    screen.say()
    months = dict(sorted(_by_month(data).items()))
    _table(screen, ("node", "month"), {(one_line(n, 80), m): s for (n, m), s in months.items()})
    screen.say()
    held = sorted(_by_subject(data).items(), key=lambda each: -each[1][0].energy_uj)
    _table(screen, ("held by", ""), {_named(whose): sums for whose, sums in held})
    screen.say()
    for text in notes(found, again):
        for line in wrap(one_line(text, 1_000), screen.width):
            screen.say(line)


def _named(whose: Subject) -> tuple[str, str]:
    if isinstance(whose, Remainder):
        return _NOBODYS, ""
    return one_line(whose.workload, 80), {"kubernetes": "pod", "slurm": "job"}[whose.scheduler]


def _table(
    screen: Screen,
    names: tuple[str, str],
    rows: Mapping[tuple[str, str], tuple[Amount, Mapping[Charge, Exact]]],
) -> None:
    columns = figures(list(rows.values()))
    titles = [*(Column(name, name=True) for name in names),
              *(Column(each.title, right=True) for each in columns)]  # fmt: skip
    cells = [
        [*name, *rest] for name, *rest in zip(rows, *(each.cells for each in columns), strict=True)
    ]
    for text in screen.table(titles, cells):
        screen.say(text)


def notes(found: PastReport, again: Recharged) -> list[str]:
    """Say how each figure is known, and what is not in them."""
    by_kind: dict[str, set[str]] = {}
    for (node, component), kind in found.exporters.items():
        how = "integrated from a power gauge" if kind.method == "integrated" else "energy counter"
        said = f"{component}: {kind.exporter}, {kind.metric}, {how}"
        by_kind.setdefault(said, set()).add(node)
    texts = [f"{said} ({listed(sorted(nodes))})" for said, nodes in sorted(by_kind.items())]
    rows = found.data.postings
    whole_uj = sum(row.amount.energy_uj for row in rows)
    nobodys_uj = sum(r.amount.energy_uj for r in rows if isinstance(r.subject, Remainder))
    texts.append(
        f"Not attributed: {energy(nobodys_uj)} ({percent(nobodys_uj, whole_uj)}), since no series "
        "names one pod, and no SLURM job is known to have held all GPUs of the node"
    )
    if found.jobs:
        texts.append(f"SLURM jobs are not known: {found.jobs}")
    if found.bridged_uj:
        texts.append(
            f"{energy(found.bridged_uj)} was counted while nothing was scraped, and is spread "
            "evenly over that time"
        )
    for node, gap_s in sorted(found.gap_s.items()):
        texts.append(f"{node}: no energy is known for {gap_s / 3600:,.1f} hours of its devices")
    for count, what in (
        (found.resets, "counters were reset; what they counted since is in it"),
        (found.rejected, "rises were more than a device can consume; they are left out"),
        (found.twice, "devices were scraped by several targets; each counts once"),
    ):
        if count:
            texts.append(f"{count:,} {what}")
    for item, energy_uj in again.unpriced_uj.items():
        texts.append(f"The rates have no {item} for {energy(energy_uj)}: not charged")
    texts += [*again.problems.values(), *found.data.warnings]
    return [
        *texts,
        "GPU-hours are those of devices with samples. Hosts, idle time and what ran are not known "
        "from these samples.",
    ]


def _as_json(found: PastReport, again: Recharged) -> dict[str, Any]:
    data = again.account
    return {
        "version": 1,
        "evidence": MARK,
        "source": data.source,
        "since_utc_s": data.since_s,
        "until_utc_s": data.until_s,
        "months": [
            {"node": node, "month": month, **_figures(*sums)}
            for (node, month), sums in sorted(_by_month(data).items())
        ],
        "held_by": [
            {**_whose(whose, data), **_figures(*sums)}
            for whose, sums in sorted(
                _by_subject(data).items(), key=lambda each: -each[1][0].energy_uj
            )
        ],
        "exporters": [
            {"node": node, "component": str(component), "metric": kind.metric,
             "exporter": kind.exporter, "method": str(kind.method)}
            for (node, component), kind in sorted(found.exporters.items())
        ],
        "bridged_uj": found.bridged_uj,
        "gap_s": dict(found.gap_s),
        "resets": found.resets,
        "rejected": found.rejected,
        "scraped_twice": found.twice,
        "notes": notes(found, again),
    }  # fmt: skip


def _figures(amount: Amount, bill: Mapping[Charge, Exact]) -> dict[str, Any]:
    return {
        "energy_kwh": kwh_from_uj(amount.energy_uj),
        "energy_uj": amount.energy_uj,
        "gpu_hours": amount.held_ns / 3.6e12,
        "charged": as_object(bill),
    }


def _whose(whose: Subject, data: ReportData) -> dict[str, str]:
    if isinstance(whose, Remainder):
        return {"remainder": str(whose)}
    known = data.workloads[whose]
    return {
        "scheduler": whose.scheduler,
        "workload": whose.workload,
        **known.labels._asdict(),
    }
