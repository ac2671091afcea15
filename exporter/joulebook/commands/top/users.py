"""Implement `joulebook top --users`: consumption by user, on this node or in the whole lab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from joulebook.commands.shared import text
from joulebook.commands.shared.text import NOTHING
from joulebook.commands.top.scrape import NodeScrape
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import ZERO, Amount
from joulebook.core.report.dataset import ReportData
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import WorkloadId
from joulebook.lab.report.prometheus_api import PrometheusApi
from joulebook.terminal import Column, Screen, cut, wrap

DAY_S = 86_400
POWER = "sum by (user) (joulebook_workload_power_watts)"

_COLUMNS = (
    Column("USER", name=True),
    Column("POWER", right=True),
    Column("ENERGY", right=True),
    Column("SHARE", right=True, spare=3),
    Column("IDLE", right=True),
    Column("GPU TIME", right=True, spare=2),
    Column("JOBS", right=True, spare=4),
)


class User(msgspec.Struct, frozen=True):
    """One user's current power, and consumption since midnight; `gpu_ns` is held GPU time."""

    name: str
    power_w: float | None
    amount: Amount
    gpu_ns: int
    jobs: int


def midnight(now_s: int) -> int:
    """Return the last midnight of UTC, in UTC seconds."""
    return now_s - now_s % DAY_S


def power_on(board: NodeScrape) -> dict[str, float]:
    """Return power by user on one node, from its daemon's metrics."""
    found: dict[str, float] = {}
    for workload in board.workloads:
        if workload.power_w is not None:
            user = workload.labels.get("user", "")
            found[user] = found.get(user, 0.0) + workload.power_w
    return found


def power_of(api: PrometheusApi, now_s: int) -> dict[str, float]:
    """Return power by user in the whole lab. Raises `SourceError`."""
    return {row.labels.get("user", ""): row.value for row in api.instant(POWER, now_s)}


def users(account: ReportData, power_w: Mapping[str, float]) -> list[User]:
    """Return all users with power or energy, the largest first."""
    amounts: dict[str, Amount] = {}
    held: dict[str, int] = {}
    jobs: dict[str, set[WorkloadId]] = {}
    for posting in account.postings:
        who = posting.subject
        if isinstance(who, WorkloadId):
            known = account.workloads.get(who)
            name = "" if known is None else known.labels.user
            amounts[name] = amounts.get(name, ZERO).plus(posting.amount)
            if posting.meter.component is Component.GPU:
                held[name] = held.get(name, 0) + posting.amount.held_ns
            jobs.setdefault(name, set()).add(who)
    everybody = [
        User(
            name,
            power_w.get(name),
            amounts.get(name, ZERO),
            held.get(name, 0),
            len(jobs.get(name, ())),
        )
        for name in amounts.keys() | power_w.keys()
    ]
    return sorted(everybody, key=lambda u: (-u.amount.energy_uj, -(u.power_w or 0), u.name))


def lines(everybody: Sequence[User], account: ReportData, screen: Screen, note: str) -> list[str]:
    """Return the table, and what is unattributed."""
    nobody = sum(
        p.amount.energy_uj for p in account.postings if not isinstance(p.subject, WorkloadId)
    )
    total = nobody + sum(user.amount.energy_uj for user in everybody)
    known = [user.power_w for user in everybody if user.power_w is not None]
    head = f"joulebook  {one_line(account.source)}   {text.several(len(everybody), 'user')}"
    if known:
        head += f"   {text.power(sum(known))} now"
    rows = [_row(user, total) for user in everybody]
    made = [screen.paint(cut(head, screen.width), "bold"), ""]
    if rows:
        made += screen.table(_COLUMNS, rows, width=screen.width)
    else:
        made.append("No energy was consumed since midnight (UTC).")
    made.append("")
    said = f"Energy since {text.moment(account.since_s)}: {text.energy(total)}"
    if total:
        said += f", {text.energy(nobody)} of it unattributed ({text.percent(nobody, total)})"
    made += wrap(said, screen.width)
    for each in (note, *account.warnings):
        if each:
            made += wrap(one_line(each, 500), screen.width)
    return made


def _row(user: User, total_uj: int) -> list[str]:
    amount = user.amount
    return [
        one_line(user.name, 80) or "(not known)",
        NOTHING if user.power_w is None else text.power(user.power_w),
        text.energy(amount.energy_uj),
        text.percent(amount.energy_uj, total_uj),
        text.percent(amount.idle_uj, amount.energy_uj),
        text.duration(user.gpu_ns),
        f"{user.jobs:,}",
    ]
