"""Names that a report was asked for and that nothing was booked to: refused, not counted as zero.

A name with a slip of the pen would otherwise give a statement of 0 kWh, which a script takes for
a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from joulebook.commands.text import shown
from joulebook.core.account import Account, Selection, Workload
from joulebook.errors import ConfigError
from joulebook.report.contract import Source
from joulebook.report.wording import nearest

_CHARS = 60


def refuse_unknown(source: Source, span: tuple[int, int], wanted: Selection, got: Account) -> None:
    """Raise `ConfigError` for a name that nothing of `got` bears, with what there is.

    The source is asked once more only then.
    """
    borne = _borne(got.workloads.values())
    # A workload goes by several names, by any of which it may be asked for.
    borne["workload"] |= {name for each in got.workloads.values() for name in _names(each)}
    lacking = [(option, name) for option, name in _asked(wanted) if name not in borne[option]]
    if not lacking:
        return
    known = _borne(source.account(*span, Selection()).workloads.values())
    option, name = next((each for each in lacking if each[1] not in known[each[0]]), lacking[0])
    said = f"--{option} {shown(name, _CHARS)}: nothing was booked to it"
    if name in known[option]:
        raise ConfigError(f"{said} that the other options leave ({got.source})")
    has = nearest(name, known[option]) or f"no {option} at all"
    raise ConfigError(f"{said} in this time; {got.source} has {has}")


def _asked(wanted: Selection) -> Iterator[tuple[str, str]]:
    for option, names in (
        ("experiment", wanted.experiments),
        ("user", wanted.users),
        ("account", wanted.accounts),
        ("workload", wanted.workloads),
    ):
        for name in sorted(names):
            yield option, name


def _names(workload: Workload) -> frozenset[str]:
    # Of several clusters in one ledger the number alone is a name, too.
    scheduler, name = workload.id.scheduler, workload.id.workload.rpartition(":")[2]
    return workload.names | {name, f"{scheduler}/{name}"}


def _borne(workloads: Iterable[Workload]) -> dict[str, set[str]]:
    every = list(workloads)
    return {
        "experiment": {each.labels.experiment for each in every},
        "user": {each.labels.user for each in every},
        "account": {each.labels.account for each in every},
        "workload": {each.shown for each in every},
    }
