"""Turn the options of a report into a source, a selection and a stretch of time.

A name that nothing was booked to is an error: a typo would otherwise give a statement of 0 kWh,
which a script would take for a result.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from joulebook.commands.shared.lab_client import LabSource, lab_client
from joulebook.commands.shared.options import Options
from joulebook.config import Config
from joulebook.core.report.dataset import ReportData, ReportWorkload, Selection, owners
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.lab.collected.report_query import CollectedSource
from joulebook.lab.report.prometheus import PrometheusSource
from joulebook.lab.report.prometheus_api import Access, PrometheusApi
from joulebook.lab.report.sources import (
    FOREVER_S,
    LedgerSource,
    NodeLedger,
    ReportSource,
    named,
    own,
)
from joulebook.lab.report.wording import nearest
from joulebook.terminal import Screen
from joulebook.units import NS_PER_S, QUARTER_NS

_CHARS = 60
_NAMED = 10


def refuse_unknown(
    source: ReportSource, span: tuple[int, int], wanted: Selection, got: ReportData
) -> None:
    """Raise `ConfigError` for a name that is not in `got`, suggesting similar ones.

    Only then is the source queried again.
    """
    borne = _borne(got.workloads.values())
    # A workload has several names, and any of them may be given.
    borne["workload"] |= {name for each in got.workloads.values() for name in _names(each)}
    asked = [*_asked(wanted)]
    lacking = [(option, name) for option, name in asked if name not in borne[option]]
    if not lacking:
        return
    known = _borne(source.account(*span, Selection()).workloads.values())
    option, name = next((each for each in lacking if each[1] not in known[each[0]]), lacking[0])
    said = f"--{option} {one_line(name, _CHARS)}: nothing was booked to it"
    if name in known[option]:
        why = "that the other options leave" if len(asked) > 1 else "while it held GPUs"
        raise ConfigError(f"{said} {why} ({got.source})")
    has = nearest(name, known[option]) or f"no {option} at all"
    raise ConfigError(f"{said} in this time; {got.source} has {has}")


def refuse_ambiguous(wanted: Selection, got: ReportData) -> None:
    """Raise `ConfigError` for an experiment's name that is ambiguous.

    An experiment belongs to a cluster and an account, or to a user where there are no accounts. Two
    groups may both have a `train`, and their figures must not be mixed.
    """
    for name in sorted(wanted.experiments):
        mine = [each for each in got.workloads.values() if each.labels.experiment == name]
        asked = {"cluster": wanted.clusters, "account": wanted.accounts, "user": wanted.users}
        for option, whose in owners(mine).items():
            several = sorted(whose)
            if len(several) > 1 and not asked[option] >= whose:
                raise ConfigError(
                    f"--experiment {one_line(name, _CHARS)} exists in several {option}s: "
                    f"{', '.join(one_line(each, _CHARS) for each in several[:_NAMED])}; select "
                    f"one with --{option} NAME, or name each to combine them"
                )


def _asked(wanted: Selection) -> Iterator[tuple[str, str]]:
    for option, names in (
        ("experiment", wanted.experiments),
        ("user", wanted.users),
        ("account", wanted.accounts),
        ("workload", wanted.workloads),
        ("cluster", wanted.clusters),
    ):
        for name in sorted(names):
            yield option, name


def _names(workload: ReportWorkload) -> frozenset[str]:
    # If a ledger has several clusters, the plain number is a name, too.
    scheduler, name = workload.id.scheduler, workload.id.workload.rpartition(":")[2]
    return workload.names | {name, f"{scheduler}/{name}"}


def _borne(workloads: Iterable[ReportWorkload]) -> dict[str, set[str]]:
    every = list(workloads)
    return {
        "experiment": {each.labels.experiment for each in every},
        "user": {each.labels.user for each in every},
        "account": {each.labels.account for each in every},
        "workload": {each.shown for each in every},
        "cluster": {each.of_cluster for each in every},
    }


_QUARTER_S = QUARTER_NS // NS_PER_S
_HEADER = re.compile(r"([A-Za-z0-9-]{1,100}):[ \t]*([\x20-\x7e]{0,2000})")


def source(args: Options, config: Config) -> ReportSource:
    """Return the source of a report. Raises `ConfigError`."""
    named_ = (args.prometheus, args.collected, args.lab)
    if sum(each is not None for each in named_) + bool(args.ledger) > 1:
        raise ConfigError("--prometheus, --ledger, --collected and --lab: use only one of them")
    url = args.prometheus
    if args.ledger or args.collected is not None or args.lab is not None:
        return ledgers(args, config)
    if not url and config.report.prometheus and not Path(config.ledger.path).exists():
        url = config.report.prometheus
    return _prometheus(url, args) if url else ledgers(args, config)


def ledgers(args: Options, config: Config) -> ReportSource:
    """Return the named ledgers, this node's, the collected one, or the lab server.

    Raises `ConfigError`.
    """
    if bool(args.ledger) + (args.collected is not None) + (args.lab is not None) > 1:
        raise ConfigError("--ledger, --collected and --lab: use only one of them")
    hourly = "--rates" if getattr(args, "rates", None) is not None else ""
    if args.collected is not None:
        return CollectedSource(args.collected or config.collect.url, hourly)
    if args.ledger:
        return LedgerSource([named(text) for text in args.ledger])
    if args.lab is not None:
        return LabSource(lab_client(args.lab, config), hourly)
    if _is_only_at_the_lab(config):
        client = lab_client("", config)
        Screen(sys.stderr).say(f"no ledger here that you may read: asking {client.url}")
        return LabSource(client, hourly)
    path = Path(config.ledger.path)
    # A login node has no ledger of its own.
    if config.collect.url and not path.exists():
        return CollectedSource(config.collect.url, hourly)
    if not path.exists():
        demo = Path(".build", "demo", "ledger.db")
        if not demo.exists():
            raise ConfigError(
                f"no ledger at {path}: has the daemon run here? Use --ledger FILE for another, "
                "--collected URL or --lab URL"
            )
        Screen(sys.stderr).say(f"no ledger at {path}; using the demo's, {demo}")
        return LedgerSource([NodeLedger("demo", demo)])
    return LedgerSource([own(config)])


def _is_only_at_the_lab(config: Config) -> bool:
    """Return whether a lab server is known, and no ledger here may be read."""
    if not config.lab.url:
        return False
    if os.path.exists(config.ledger.path):  # noqa: PTH110 - False where one may not look
        return not os.access(config.ledger.path, os.R_OK)
    collected = config.collect.url
    if collected.startswith("sqlite:"):
        return not os.access(collected.removeprefix("sqlite://"), os.R_OK)
    return not collected


_WAIT_S, _LOOK_S = 60.0, 1.0
_NOBODYS = Selection(workloads=frozenset({""}))


def bring_up_to_date(asked: ReportSource, args: Options, config: Config) -> None:
    """Collect now, or wait until this node's daemon has booked what was consumed up to now.

    Raises `ConfigError` for a source of which neither can be said, and `LedgerError`.
    """
    if isinstance(asked, PrometheusSource | LabSource) or args.ledger:
        raise ConfigError("--wait: for this node's ledger or --collected, which can be brought up")
    if isinstance(asked, CollectedSource):
        # A collector and its server are much to load for a report that does not wait.
        from joulebook.lab.collect.metrics import make_collector  # noqa: PLC0415

        collect = msgspec.structs.replace(config.collect, url=args.collected or config.collect.url)
        if not make_collector(collect).once():
            Screen(sys.stderr).say(
                "--wait: not every node was collected; `joulebook collect --once` says which"
            )
        return
    now_s = time.time()
    while min(asked.account(0, 1, _NOBODYS).known_until_s.values(), default=0) < now_s:
        if time.time() - now_s >= _WAIT_S:
            Screen(sys.stderr).say(
                f"--wait: the daemon has not booked all within {_WAIT_S:g} s; is it running?"
            )
            return
        time.sleep(_LOOK_S)


def _prometheus(url: str, args: Options) -> ReportSource:
    return PrometheusSource(prometheus_api(url, args))


def prometheus_api(url: str, args: Options) -> PrometheusApi:
    """Return a Prometheus with the access that the options give. Raises `ConfigError`."""
    if not (math.isfinite(args.timeout) and 0 < args.timeout <= 3600):
        raise ConfigError(f"--timeout {args.timeout:g}: expected seconds above 0, at most 3600")
    headers = dict(_header(text) for text in args.header)
    access = Access(headers, args.token_file, args.ca, args.insecure, args.timeout)
    return PrometheusApi(url, access)


def _header(text: str) -> tuple[str, str]:
    found = _HEADER.fullmatch(text)
    if found is None:
        raise ConfigError("--header: expected NAME: VALUE in ASCII, on one line")
    return found[1], found[2]


def selection(args: Options) -> Selection:
    """Return the selection of runs."""
    return Selection(
        frozenset(args.experiment),
        frozenset(args.user),
        frozenset(args.account),
        frozenset(args.workload),
        frozenset(args.cluster),
    )


def stretch(args: Options) -> tuple[int, int]:
    """Return start and end in UTC seconds. Raises `ConfigError`."""
    since_s = 0 if args.since is None else quarter(args.since)
    until_s = FOREVER_S if args.until is None else quarter(args.until)
    if until_s <= since_s:
        raise ConfigError(
            f"--until {args.until}: expected a time after --since {args.since or '1970-01-01'}"
        )
    return since_s, until_s


def quarter(text: str) -> int:
    """Parse an instant on a quarter hour into UTC seconds. Raises `ConfigError`."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{text!r}: expected a time like 2026-01-31 or 2026-01-31T08:00Z"
        ) from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    if when.timestamp() % _QUARTER_S:
        raise ConfigError(
            f"{text!r}: expected a time on a quarter hour, the resolution of the ledger"
        )
    return int(when.timestamp())
