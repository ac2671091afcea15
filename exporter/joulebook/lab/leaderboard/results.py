"""Results of training runs as they come from outside, and what their metric is taken to be.

A CSV file has the columns `experiment,run,metric,value`, and may have `kwh`, `cost`, `currency`,
`gpu` (where the energy is known already) and `flops`. MLflow and model cards have files of
their own; all give `Result`s.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import msgspec

from joulebook.core.money.rates import NANO
from joulebook.core.report.leaderboard import ComparedMetric, Unit
from joulebook.errors import ConfigError
from joulebook.units import NS_PER_S, UJ_PER_KWH
from joulebook.untrusted_files import read_named_text

MAX_BYTES = 64 * 1024 * 1024
MAX_ROWS = 200_000
MAX_NAME_CHARS = 200
LARGEST = 1e40
_MOST_CHARS = 100
_EXPONENT = re.compile(r"[eE]([+-]?[0-9]{1,100})$")
_MOST_EXPONENT = 100
"""Beyond it, a number that is small enough is as good as 0, and read as floating point."""

HIGHER = frozenset(
    (
        *("accuracy", "acc", "top1", "top5", "f1", "map", "auc", "auroc", "ap", "precision"),
        *("recall", "bleu", "rouge", "rougel", "meteor", "chrf", "em", "exactmatch", "ndcg"),
        *("hitrate", "hr", "mrr", "iou", "miou", "dice", "r2", "reward", "score", "winrate"),
        *("elo", "ssim", "psnr"),
    )
)
LOWER = frozenset(
    (
        *("loss", "perplexity", "ppl", "error", "err", "wer", "cer", "mae", "mse", "rmse"),
        *("fid", "ece", "bpb", "bpc", "nll", "latency", "regret"),
    )
)
"""Names of metrics with a well-known better direction, without separators."""

_SHARES = HIGHER - {"reward", "score", "elo", "psnr", "winrate"} | {"error", "err", "wer", "cer"}
"""Those that are a share: of 0 to 1, or in percent."""

_AFFIXES = ("val", "valid", "validation", "test", "eval", "train", "dev", "final", "best", "mean")


class Result(msgspec.Struct, frozen=True):
    """One value of one run. Times are UTC ns, `None`: not known; `tags` are the tracker's own.

    `host` is where the run was, as its tracker says. Energy (uJ), cost (nano-units by currency) and
    `gpu` are set only where the result brings them along.
    """

    experiment: str
    run: str
    metric: str
    value: Fraction
    started_utc_ns: int | None = None
    ended_utc_ns: int | None = None
    host: str = ""
    user: str = ""
    tags: Mapping[str, str] = {}
    flops: float | None = None
    energy_uj: int | None = None
    cost_nano: Mapping[str, int] = {}
    gpu: str = ""
    where: str = ""
    """File and line, or what else names it in a message."""
    title: str = ""
    """What people call the run, where that is not its id."""
    problem: str = ""
    """Why it is left out of all rankings."""

    @property
    def name(self) -> str:
        """What people are shown."""
        return " / ".join(part for part in (self.experiment, self.title or self.run) if part)


def exact(text: str | float, where: str) -> Fraction:
    """A finite number as written, without the rounding of binary fractions. `ConfigError`."""
    said = str(text).strip()
    exponent = _EXPONENT.search(said)
    # As a fraction 1e999999, and 1e-999999 too, is a number of a million digits.
    is_small = exponent is None or abs(int(exponent[1])) <= _MOST_EXPONENT
    try:
        if len(said) <= _MOST_CHARS and "/" not in said and abs(float(said)) < LARGEST:
            return Fraction(said) if is_small else Fraction(float(said))
    except ValueError:
        pass
    raise ConfigError(f"{where}: {said[:40]!r}: expected a finite number, such as 92.5")


def read_csv(path: Path) -> list[Result]:
    """The results in a CSV file. Raises `ConfigError` naming file, line, column and value."""
    return parse_csv(path, read_named_text(path, MAX_BYTES))


def parse_csv(path: Path, text: str) -> list[Result]:
    """Return the results in text from a file of that name. Raises `ConfigError`."""
    try:
        return list(_rows(path, text))
    except csv.Error as error:
        raise ConfigError(f"{path}: not CSV: {error}") from None


_NEEDED = ("experiment", "run", "metric", "value")
_FURTHER = ("kwh", "cost", "currency", "gpu", "flops", "host", "started", "ended")


def _rows(path: Path, text: str) -> Iterator[Result]:
    head = text.partition("\n")[0]
    # Spreadsheets in half of Europe write semicolons, since a comma is in their numbers.
    mark = max(",;\t", key=head.count)
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True, delimiter=mark, restkey="")
    names = [name.strip().casefold() for name in reader.fieldnames or ()]
    # A spreadsheet ends lines with a mark too many, where a column was once in use.
    while names and not names[-1]:
        names.pop()
    reader.fieldnames = names
    missing = [name for name in _NEEDED if name not in names]
    unknown = [name for name in names if name not in (*_NEEDED, *_FURTHER)]
    if missing or unknown:
        wrong = f"no column {missing[0]}" if missing else f"unknown column {unknown[0][:40]!r}"
        raise ConfigError(
            f"{path}: {wrong}: expected {','.join(_NEEDED)}, optionally {', '.join(_FURTHER)}"
        )
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        if reader.line_num > MAX_ROWS:
            raise ConfigError(f"{where}: more than {MAX_ROWS:,} lines")
        if any(row.pop("", "")) or any(value is None for value in row.values()):
            raise ConfigError(f"{where}: expected {len(names)} fields")
        cells = {key: value.strip() for key, value in row.items()}
        if not any(cells.values()):
            continue
        if mark != ",":
            cells |= {key: _DECIMAL_COMMA.sub(".", cells[key]) for key in _NUMBERS & cells.keys()}
        yield _result(where, cells)


_NUMBERS = {"value", "kwh", "cost", "flops"}
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d+$)")


def _result(where: str, row: Mapping[str, str]) -> Result:
    if not row["metric"]:
        raise ConfigError(f"{where}: metric is empty")
    if not row["experiment"] and not row["run"]:
        raise ConfigError(f"{where}: experiment and run are both empty")
    value, problem = finite(row["value"], f"{where}, value")
    energy_uj = None
    if row.get("kwh"):
        kwh, trouble = finite(row["kwh"], f"{where}, kwh")
        if kwh < 0:
            raise ConfigError(f"{where}, kwh: {row['kwh'][:40]!r}: expected more than 0")
        energy_uj = round(kwh * UJ_PER_KWH)
        if not trouble and not energy_uj:
            trouble = f"{where}: 0 kWh: expected more than 0"
        problem = problem or trouble
    cost: dict[str, int] = {}
    if row.get("cost"):
        if not row.get("currency"):
            raise ConfigError(f"{where}: cost without a currency (EUR, USD, ...)")
        amount, unknown = finite(row["cost"], f"{where}, cost")
        if not unknown:
            cost[row["currency"][:8]] = round(amount * NANO)
    flops, no_flops = finite(row.get("flops", ""), f"{where}, flops")
    return Result(
        row["experiment"][:MAX_NAME_CHARS],
        row["run"][:MAX_NAME_CHARS],
        row["metric"][:MAX_NAME_CHARS],
        value,
        started_utc_ns=_instant(row.get("started", ""), f"{where}, started"),
        ended_utc_ns=_instant(row.get("ended", ""), f"{where}, ended"),
        host=row.get("host", "")[:MAX_NAME_CHARS],
        flops=None if no_flops else float(flops),
        energy_uj=energy_uj,
        cost_nano=cost,
        gpu=row.get("gpu", "")[:MAX_NAME_CHARS],
        where=where,
        problem=problem,
    )


_NO_NUMBER = frozenset(
    (
        *("", "nan", "inf", "infinity", "none", "null", "na", "n/a", "<na>"),
        *("#n/a", "#num!", "#div/0!", "#value!"),
    )
)
"""What trackers, data frames and spreadsheets write where there is no number."""


def finite(text: str | float, where: str) -> tuple[Fraction, str]:
    """Return a number as `exact` reads it, or 0 and why it is none: blank, or not finite.

    Raises `ConfigError` for text that is not a number.
    """
    said = str(text).strip().casefold()
    if not said:
        return Fraction(0), f"{where}: empty"
    if said.lstrip("+-") in _NO_NUMBER:
        return Fraction(0), f"{where}: {said[:40]}"
    return exact(text, where), ""


def _instant(text: str, where: str) -> int | None:
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{where}: {text[:40]!r}: expected 2026-01-31T13:00:00Z") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return int(when.timestamp()) * NS_PER_S


def pick(results: Sequence[Result], metric: str) -> list[Result]:
    """Return the results of one metric; without a name, of the only one.

    Raises `ConfigError` with the existing metrics, or for a run with two values.
    """
    names = sorted({result.metric for result in results})
    if not names:
        raise ConfigError("no results: nothing to rank")
    if not metric and len(names) > 1:
        raise ConfigError(f"several metrics: choose one with --metric {' or '.join(_few(names))}")
    wanted = metric or names[0]
    found = [result for result in results if result.metric == wanted]
    if not found:
        raise ConfigError(f"--metric {wanted[:40]!r}: the results have {', '.join(_few(names))}")
    seen: dict[tuple[str, str], Result] = {}
    for result in found:
        key = (result.experiment, result.run)
        # An experiment whose runs have no names may have many values.
        if result.problem:
            continue
        if result.run and key in seen:
            before = seen[key].where
            raise ConfigError(f"{result.where}: {result.name} already has a value: {before}")
        seen[key] = result
    return found


def _few(names: Sequence[str]) -> list[str]:
    return [name[:60] for name in names[:8]] + (["..."] if len(names) > 8 else [])


def metric_of(
    name: str, values: Iterable[Fraction], better: str = "", unit: str = ""
) -> tuple[ComparedMetric, tuple[str, ...]]:
    """Return the interpretation of a metric, and the assumptions made, in words.

    `better` is `higher` or `lower` and `unit` one of `Unit`, if given. Raises `ConfigError` if
    neither the name nor the values imply it.
    """
    known = _known(name)
    notes: list[str] = []
    if better:
        higher = better == "higher"
    elif known in HIGHER or known in LOWER:
        higher = known in HIGHER
        notes.append(f"{'higher' if higher else 'lower'} is better, by the name of the metric")
    else:
        raise ConfigError(
            f"metric {name[:40]!r}: the name does not imply which is better; use --better higher "
            "or --better lower"
        )
    if unit:
        return ComparedMetric(name, higher, Unit(unit)), tuple(notes)
    if known not in _SHARES:
        return ComparedMetric(name, higher, Unit.PLAIN), (*notes, "a point is 1 of its unit")
    every = list(values)
    low, high = min(every, key=abs), max(every, key=abs)
    if abs(high) <= 1:
        return ComparedMetric(name, higher, Unit.RATIO), (*notes, "a ratio: no value is above 1")
    if abs(low) <= 1 and len({v for v in every if abs(v) <= 1 and v}) > 0:
        raise ConfigError(
            f"metric {name[:40]!r}: {float(low):g} looks like a ratio and {float(high):g} like a "
            "percentage: use --unit ratio or --unit percent"
        )
    if abs(high) > 100:
        return ComparedMetric(name, higher, Unit.PLAIN), (*notes, "a point is 1 of its unit")
    return ComparedMetric(name, higher, Unit.PERCENT), (*notes, "in percent: values are above 1")


def _known(name: str) -> str:
    """Return a metric's name as in the tables: `val/top-1_accuracy` is an accuracy."""
    reported = name.lower().partition(" on ")[0]
    words = [
        word
        for word in "".join(c if c.isalnum() else " " for c in reported).split()
        if word not in _AFFIXES
    ]
    whole = "".join(words)
    return next((c for c in (whole, *words[-1:]) if c in HIGHER or c in LOWER), whole)
