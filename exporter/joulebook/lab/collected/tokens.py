"""The tokens of served models by quarter hour, from readings of their servers' counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from joulebook.core.money.amounts import Exact
from joulebook.core.report.serving import (
    CounterReading,
    Increase,
    Produced,
    by_quarter,
    increase,
)
from joulebook.lab.collected.database import Database, one_by_some
from joulebook.lab.collected.months import DAY_S
from joulebook.lab.collected.rollup import closed_to
from joulebook.units import NS_PER_S

PROMETHEUS = "prometheus"
"""How targets begin that the site's Prometheus has read."""

MOST_MODELS = 100
"""The most models of one experiment that are exposed by name."""
OVERFLOW = "(overflow)"

_ENDED_S = 1800
"""A workload may have ended so long ago: its last tokens are read before the node reports it."""
_MEMORY_S = 35 * DAY_S


class ServingWorkload(NamedTuple):
    """A workload that serves models, and whose it is."""

    number: int
    cluster: str
    account: str
    experiment: str


class ServerReading(NamedTuple):
    """What a server said: of which workload, where it was asked, and its counters by model."""

    workload: ServingWorkload
    target: str
    models: Mapping[str, Mapping[Produced, CounterReading]]


_RUNNING = """
SELECT w.id, w.cluster, o.account, o.experiment, w.workload, f.display FROM workloads w
JOIN facts f ON f.workload = w.id JOIN owners o ON o.id = w.owner
WHERE (f.ended_utc_ns IS NULL OR f.ended_utc_ns > ?) AND {chosen} ORDER BY w.id DESC
"""


def running(
    database: Database, names: Iterable[tuple[str, str]], now_s: int
) -> dict[tuple[str, str], ServingWorkload]:
    """Return the workloads of those (name, cluster) that run; of several parts, the first.

    The name may be as in the ledger or as shown.
    """
    wanted = {*names}
    since_ns = (now_s - _ENDED_S) * NS_PER_S
    each = sorted({name for name, _ in wanted})
    found: dict[tuple[str, str], ServingWorkload] = {}
    for column in ("f.display", "w.workload"):
        sql = _RUNNING.format(chosen=f"{column} IN (*)")
        for *who, workload, display in one_by_some(database, sql, [since_ns], each):
            name = workload if column == "w.workload" else display
            for key in {(name, who[1]), (name, "")} & wanted:
                found[key] = ServingWorkload(*who)
    return found


def running_pods(
    database: Database, pods: Iterable[tuple[str, str]], now_s: int
) -> dict[tuple[str, str], ServingWorkload]:
    """Return the workloads of those pods (namespace, name) that run."""
    since_ns = (now_s - _ENDED_S) * NS_PER_S
    found: dict[tuple[str, str], ServingWorkload] = {}
    # `/` follows `.`, which separates a pod's name from its UID.
    sql = _RUNNING.format(
        chosen="w.scheduler = 'kubernetes' AND w.workload > ? AND w.workload < ? AND o.account = ?"
    )
    for namespace, pod in {*pods}:
        for *who, workload, _ in database.rows(sql, [since_ns, f"{pod}.", f"{pod}/", namespace]):
            if workload.rpartition(".")[0] == pod:
                found[namespace, pod] = ServingWorkload(*who)
    return found


def in_prometheus(instance: str) -> str:
    """Return the target of a server that the site's Prometheus has read there."""
    return f"{PROMETHEUS} {instance}".rstrip()


def _is_in_prometheus(target: str) -> bool:
    return target.partition(" ")[0] == PROMETHEUS


def book(database: Database, readings: Sequence[ServerReading], most: int) -> int:
    """Write what counters counted since they were last read; return how many models were too many.

    `most` are the models counted of one workload.
    """
    numbers = sorted({each.workload.number for each in readings})
    with database.transaction():
        closed_to(database)  # Two lab servers read at the same time: one of them is first.
        before = _counters(database, numbers)
        made: dict[tuple[ServingWorkload, str, Produced], list[Increase]] = defaultdict(list)
        kept: list[tuple[object, ...]] = []
        refused = 0
        for workload, target, models in readings:
            known = before[workload.number]
            # It is read in one way at a time: going back to the other one counts from then.
            for of in {of for of, *_ in known}:
                if _is_in_prometheus(of) != _is_in_prometheus(target):
                    database.rows(
                        "DELETE FROM serving_counters WHERE workload = ? AND target = ?",
                        [workload.number, of],
                    )
            names = {name for _, name, _ in known}
            mine = {key: at for key, at in known.items() if key[0] == target}
            looked_s = max((at.read_s for at in mine.values()), default=0)
            for name, counts in sorted(models.items()):
                if name not in names and len(names) >= most:
                    refused += 1
                    continue
                names.add(name)
                for kind, now in counts.items():
                    was = mine.get((target, name, kind))
                    if was is not None and was.read_s >= now.read_s:
                        continue
                    found = increase(was, now, looked_s)
                    kept.append((workload.number, target, name, str(kind), *now))
                    made[workload, name, kind] += [] if found is None else [found]
        database.upsert("serving_counters", kept)
        _add_tokens(database, made, max((int(str(row[-2])) for row in kept), default=0))
    return refused


def _counters(
    database: Database, numbers: Sequence[int]
) -> dict[int, dict[tuple[str, str, Produced], CounterReading]]:
    found: dict[int, dict[tuple[str, str, Produced], CounterReading]] = defaultdict(dict)
    for number, target, name, kind, *at in one_by_some(
        database,
        "SELECT workload, target, model_name, kind, value, read_s, started_s FROM serving_counters"
        " WHERE workload IN (*)",
        [],
        numbers,
    ):
        found[number][target, name, Produced(kind)] = CounterReading(*at)
    return found


def _add_tokens(
    database: Database,
    made: Mapping[tuple[ServingWorkload, str, Produced], Sequence[Increase]],
    now_s: int,
) -> None:
    """Add to quarter hours and sums; of a counter that is new, the sum is 0 at first."""
    tokens: dict[tuple[object, ...], int] = defaultdict(int)
    sums: dict[tuple[str, ...], int] = defaultdict(int)
    for (workload, name, kind), each in made.items():
        sums[(*workload[1:], name, str(kind))] += sum(found.amount for found in each)
        for found in each:
            for quarter_s, count in by_quarter(found).items():
                owner = (workload.account, workload.experiment)
                tokens[(quarter_s, *owner, name, str(kind), workload.number)] += count
    for *key, count in one_by_some(
        database,
        "SELECT quarter_s, account, experiment, model_name, kind, workload, tokens FROM tokens"
        " WHERE quarter_s IN (*)",
        [],
        sorted({key[0] for key in tokens}, key=str),
    ):
        if tuple(key) in tokens:
            tokens[tuple(key)] += count
    database.upsert("tokens", [(*key, count) for key, count in tokens.items()])
    add_totals(database, {(*key, "", 0): Exact(count) for key, count in sums.items()}, now_s)


def add_totals(database: Database, more: Mapping[tuple[str | int, ...], Exact], now_s: int) -> None:
    """Add to the sums that are exposed, of at most so many models of an experiment; none falls."""
    there: dict[tuple[str | int, ...], Exact] = {}
    names: dict[tuple[str | int, ...], set[str | int]] = defaultdict(set)
    for *key, whole, nano, rest, _ in database.rows("SELECT * FROM serving_totals"):
        there[tuple(key)] = Exact(whole, nano, rest)
        names[tuple(key[:3])].add(key[3])
    new: dict[tuple[str | int, ...], Exact] = {}
    for (*of, name, item, currency, idle), amount in more.items():
        known = names[tuple(of)]
        if len(known) < MOST_MODELS:
            known.add(name)
        to = (*of, name if name in known else OVERFLOW, item, currency, idle)
        new[to] = new.get(to, there.get(to, Exact())).plus(amount)
    database.upsert("serving_totals", [(*key, *amount, now_s) for key, amount in new.items()])


def forget(database: Database, now_s: int) -> None:
    """Forget counters that were not read for long."""
    with database.transaction():
        database.rows("DELETE FROM serving_counters WHERE read_s < ?", [now_s - _MEMORY_S])
