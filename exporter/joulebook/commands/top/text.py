"""The tables of `joulebook top` and of `top --users` as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from joulebook.commands.shared import text
from joulebook.commands.shared.text import NOTHING
from joulebook.commands.top.scrape import Gpu, Labels, NodeScrape, ScrapedWorkload
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import ZERO, Amount
from joulebook.core.report.dataset import ReportData
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import WorkloadId
from joulebook.lab.report.prometheus_api import PrometheusApi
from joulebook.terminal import Column, Screen, cut, wrap
from joulebook.units import UJ_PER_J

_GPU_COLUMNS = (
    Column("GPU", right=True),
    Column("MODEL", name=True, spare=4),
    Column("POWER", right=True),
    Column("LIMIT", right=True, spare=5),
    Column("UTIL", right=True),
    Column("MEMORY", right=True, spare=3),
    Column("TEMP", right=True, spare=2),
    Column("HELD BY", name=True),
)

_WORKLOAD_COLUMNS = (
    Column("JOB", name=True),
    Column("USER", name=True, spare=1),
    Column("ACCOUNT", name=True, spare=3),
    Column("EXPERIMENT", name=True, spare=1),
    Column("POWER", right=True),
    Column("ENERGY", right=True),
    Column("IDLE", right=True, spare=2),
    Column("GPU TIME", right=True, spare=4),
)


def lines(
    board: NodeScrape, screen: Screen, width: int, height: int = 0, note: str = ""
) -> list[str]:
    """Return the table in at most `height` lines (0: unlimited), with `note` below its title."""
    head = [_title(board, screen, width)]
    if note:
        head.append(screen.paint(cut(note, width), "yellow"))
    head.append("")
    rows = [_gpu_row(gpu) for gpu in board.gpus]
    gpus = screen.table(_GPU_COLUMNS, rows, width=width, fold=False)
    energies = text.energies([round(each.energy_j * UJ_PER_J) for each in board.workloads])
    rows = [_workload_row(*each) for each in zip(board.workloads, energies, strict=True)]
    workloads = screen.table(_WORKLOAD_COLUMNS, rows, width=width, fold=False)
    foot = ["", *_books(board, screen, width)]
    if height:
        # At least a title, a blank line and one row of each table.
        room = height - len(head) - len(foot) - 1
        gpus = _short(gpus, max(room - min(len(workloads), 4), 3), "GPU", width)
        workloads = _short(workloads, max(room - len(gpus), 2), "job", width)
    no_gpu = screen.paint("No GPU was read.", "dim")
    no_job = screen.paint("No job was booked lately.", "dim")
    body = [*(gpus if board.gpus else [no_gpu]), "", *(workloads if board.workloads else [no_job])]
    made = [*head, *body, *foot]
    return made[:height] if height else made


def _title(board: NodeScrape, screen: Screen, width: int) -> str:
    name = one_line(board.node) + (f" ({one_line(board.cluster)})" if board.cluster else "")
    held = sum(bool(gpu.holders) for gpu in board.gpus)
    power = board.power_w
    parts = [
        f"joulebook  {name}",
        NOTHING if power is None else text.power(power),
        f"{held}/{text.several(len(board.gpus), 'GPU')} held",
    ]
    down = [one_line(sensor) for sensor, up in board.sensors.items() if not up]
    line = cut("   ".join(parts), width)
    if down:
        warning = f"SENSOR DOWN: {', '.join(down)}"
        line = cut(line, max(width - len(warning) - 3, 0))
        return f"{screen.paint(line, 'bold')}   {screen.paint(warning, 'red')}"
    return screen.paint(line, "bold")


def _short(made: list[str], room: int, noun: str, width: int) -> list[str]:
    if len(made) <= room:
        return made
    left = len(made) - room + 1
    return [*made[: room - 1], cut(f"... and {text.several(left, f'more {noun}')}", width)]


def _gpu_row(gpu: Gpu) -> list[str]:
    values = gpu.values
    used, total = values.get("memory_used_bytes"), values.get("memory_total_bytes")
    memory = NOTHING
    if used is not None:
        memory = text.size(used) if total is None else text.size_of(used, total)
    return [
        one_line(gpu.index, 6),
        one_line(gpu.model, 40).removeprefix("NVIDIA ") or NOTHING,
        _watts(values.get("power_watts")),
        _watts(values.get("power_limit_watts")),
        _percent(values.get("utilization_ratio")),
        memory,
        _figure(values.get("temperature_celsius"), " C"),
        ", ".join(_holder(labels, share) for labels, share in gpu.holders) or NOTHING,
    ]


def _holder(labels: Labels, share: float) -> str:
    who = " ".join(part for part in (_job(labels), one_line(labels.get("user", ""), 40)) if part)
    return who if share >= 1 else f"{who} {_percent(share)}"


def _workload_row(workload: ScrapedWorkload, energy: str) -> list[str]:
    labels = workload.labels
    time = text.seconds(workload.gpu_s)
    if workload.coverage is not None:
        time += f", {_percent(workload.coverage)} measured"
    energy_uj, idle_uj = (round(j * UJ_PER_J) for j in (workload.energy_j, workload.idle_j))
    return [
        _job(labels),
        *(
            one_line(labels.get(name, ""), 80) or NOTHING
            for name in ("user", "account", "experiment")
        ),
        "ended" if workload.power_w is None else _watts(workload.power_w),
        energy,
        text.percent(idle_uj, energy_uj),
        time,
    ]


def _job(labels: Labels) -> str:
    return one_line(labels.get("workload", ""), 80) or NOTHING


def _books(board: NodeScrape, screen: Screen, width: int) -> list[str]:
    sums = board.sums
    read, jobs, nobody, waiting = (
        text.energy(round(j * UJ_PER_J))
        for j in (sums.read_j, sums.experiments_j, sums.remainders_j, sums.pending_j)
    )
    whole = f"Ledger: {read} read = {jobs} jobs + {nobody} unattributed + {waiting} pending"
    verdict = "balanced" if sums.balanced else f"OFF BY {sums.difference_j:,.2f} J"
    made = wrap(f"{whole}: {verdict}", width)
    if not sums.balanced:
        made = [screen.paint(line, "red") for line in made]
    return made


def _watts(value: float | None) -> str:
    return NOTHING if value is None else text.power(value)


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}".replace("%", " %")


def _figure(value: float | None, unit: str) -> str:
    return NOTHING if value is None else f"{value:.0f}{unit}"


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


def by_user(data: ReportData, power_w: Mapping[str, float]) -> list[User]:
    """Return all by_user with power or energy, the largest first."""
    amounts: dict[str, Amount] = {}
    held: dict[str, int] = {}
    jobs: dict[str, set[WorkloadId]] = {}
    for posting in data.postings:
        who = posting.subject
        if isinstance(who, WorkloadId):
            known = data.workloads.get(who)
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


def user_lines(everybody: Sequence[User], data: ReportData, screen: Screen, note: str) -> list[str]:
    """Return the table, and what is unattributed."""
    nobody = sum(p.amount.energy_uj for p in data.postings if not isinstance(p.subject, WorkloadId))
    total = nobody + sum(user.amount.energy_uj for user in everybody)
    known = [user.power_w for user in everybody if user.power_w is not None]
    head = f"joulebook  {one_line(data.source)}   {text.several(len(everybody), 'user')}"
    if known:
        head += f"   {text.power(sum(known))} now"
    energies = text.energies([user.amount.energy_uj for user in everybody])
    rows = [_row(user, total, each) for user, each in zip(everybody, energies, strict=True)]
    made = [screen.paint(cut(head, screen.width), "bold"), ""]
    if rows:
        made += screen.table(_COLUMNS, rows, width=screen.width)
    else:
        made.append("No energy was consumed since midnight (UTC).")
    made.append("")
    said = f"Energy since {text.moment(data.since_s)}: {text.energy(total)}"
    if total:
        said += f", {text.energy(nobody)} of it unattributed ({text.percent(nobody, total)})"
    made += wrap(said, screen.width)
    for each in (note, *data.warnings):
        if each:
            made += wrap(one_line(each, 500), screen.width)
    return made


def _row(user: User, total_uj: int, energy: str) -> list[str]:
    amount = user.amount
    return [
        one_line(user.name, 80) or "(not known)",
        NOTHING if user.power_w is None else text.power(user.power_w),
        energy,
        text.percent(amount.energy_uj, total_uj),
        text.percent(amount.idle_uj, amount.energy_uj),
        text.duration(user.gpu_ns),
        f"{user.jobs:,}",
    ]
