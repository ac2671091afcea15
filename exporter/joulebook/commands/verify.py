"""Implement `joulebook verify`: check a published statement as a reviewer does.

It needs the files alone: no daemon, no ledger, no configuration.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from joulebook.commands.shared.options import FILE, Options, argument, command, option
from joulebook.commands.shared.text import several
from joulebook.core.sanitize import clean, one_line
from joulebook.errors import ConfigError, InputError
from joulebook.lab.collected.months import month_of, shown
from joulebook.lab.report import rows, rows_parquet, signature, statement
from joulebook.lab.report.model import Statement
from joulebook.lab.report.wording import listed
from joulebook.terminal import Screen
from joulebook.units import QUARTER_NS
from joulebook.untrusted_files import named_text, read_named, read_named_text

_STATEMENT = msgspec.json.Decoder(Statement)

_NOT_COMPARED = ("made_by", "rows_sha256")
"""Who works it out again is another; the digest is compared by itself."""

_MOST_SHOWN = 20

Values = Mapping[str, object]
"""The values of a statement by their place in it: `runs[0].energy_uj`."""


def main(args: Options) -> int:
    """Check one statement; 0: nothing is wrong with it, 1: something is."""
    screen = Screen()
    text, published, unchecked = _read(args.statement)
    values = _values(published)
    problems = [
        *_signature(args, text, screen),
        *unchecked,
        *_rows(args, published.rows_sha256, values, screen),
    ]
    for problem in problems[:_MOST_SHOWN]:
        Screen(sys.stderr).say(clean(f"joulebook verify: {problem}"))
    if len(problems) > _MOST_SHOWN:
        Screen(sys.stderr).say(f"joulebook verify: and {len(problems) - _MOST_SHOWN} more")
    return 1 if problems else 0


def _basis(path: Path) -> rows.Basis:
    raw = read_named(path, rows.MOST_BYTES)
    if raw.startswith(rows_parquet.MAGIC):
        return rows_parquet.read(raw, str(path))
    return rows.read(named_text(raw, path), str(path))


def _read(path: Path) -> tuple[str, Statement, list[str]]:
    """Return a statement, as text too, and what of the text is no part of it."""
    text = read_named_text(path, rows.MOST_BYTES)
    try:
        published = _STATEMENT.decode(text)
        return text, published, list(_unchecked(text, _values(published)))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: {error} (expected a statement by `joulebook report --format json`)"
        ) from None


def _unchecked(text: str, published: Values) -> Iterator[str]:
    """Yield what a reader of the file sees and nothing recomputes."""
    twice: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        times = Counter(name for name, _ in pairs)
        twice.extend(name for name, count in times.items() if count > 1)
        return dict(pairs)

    raw = dict(_leaves(json.loads(text, object_pairs_hook=unique), ""))
    yield from (f"{one_line(name, 80)}: more than once in the statement" for name in twice)
    for path in sorted(raw.keys() - published.keys()):
        yield f"{one_line(path, 80)}: {_said(raw, path)} in the statement is no part of one"


def _signature(args: Options, text: str, screen: Screen) -> Iterator[str]:
    """Check the signature, if there is one or a key is given."""
    beside = args.statement.with_name(args.statement.name + signature.SUFFIX)
    file = args.signature or beside
    if args.signature is None and args.key is None and not beside.exists():
        screen.say(f"Signature  none (there is no {one_line(str(beside))})")
        return
    try:
        key = signature.verify(text, file, args.key)
    except InputError as error:
        yield str(error)
        return
    by = "compare this with the author's key, or give --key" if args.key is None else str(args.key)
    screen.say(f"Signature  good, by {one_line(key)} ({one_line(by)})")


def _rows(args: Options, digest: str | None, published: Values, screen: Screen) -> Iterator[str]:
    """Work every figure out again."""
    if args.rows is None:
        screen.say("Figures    not recomputed: that needs --rows FILE")
        return
    basis = _basis(args.rows)
    if digest is None:
        screen.say("Rows       the statement carries no digest of its rows")
    elif rows.digest(basis) == digest:
        screen.say("Rows       those of the statement, by its digest")
    else:
        yield f"{args.rows}: not the rows of this statement: their digest differs"
    try:
        again = _values(statement.make(*basis))
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{args.rows}: no statement can be made of it: {error}") from None
    differing = [
        f"{path}: {_said(published, path)} in the statement, {_said(again, path)} from the rows"
        for path in sorted(published.keys() | again.keys())
        if path not in _NOT_COMPARED
        and not path.startswith("served")
        and published.get(path) != again.get(path)
    ]
    if any(path.startswith("served[") for path in published):
        screen.say("Models     what was served is not recomputed: tokens are not in the rows")
    if months := _months_by_day(basis):
        screen.say(
            f"Months     {listed(months)}: by day, since compacted. Sums and what was charged are "
            "verified; hours and other rates cannot be recomputed"
        )
    if not differing:
        screen.say(f"Figures    {several(len(again), 'value')} recomputed, all equal")
    yield from differing


def _months_by_day(basis: rows.Basis) -> list[str]:
    """Return the months (`2026-10`) with rows that stand for more than a quarter hour."""
    by_day = (row for row in basis.account.postings if row.amount.held_ns > QUARTER_NS)
    return sorted({shown(month_of(row.quarter_s)) for row in by_day})


def _values(made: Statement) -> Values:
    return dict(_leaves(msgspec.to_builtins(made), ""))


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for n, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{n}]")
    else:
        yield path, value


def _said(values: Values, path: str) -> str:
    return one_line(repr(values[path]), 80) if path in values else "nothing"


@command(
    epilog="Exit status: 0 nothing is wrong, 1 a signature, a digest or a figure is, 2 a file "
    "cannot be read."
)
@argument(
    "statement",
    type=FILE,
    metavar="STATEMENT",
    help="Statement in JSON, from `joulebook report --format json`.",
)
@option(
    "--rows",
    type=FILE,
    metavar="FILE",
    help="Rows it rests on, from `joulebook report --rows`: every figure is recomputed from them.",
)
@option(
    "--key",
    type=FILE,
    metavar="FILE",
    help="The author's public key (id_ed25519.pub). Default: any key, and its fingerprint is "
    "printed.",
)
@option(
    "--signature",
    type=FILE,
    metavar="FILE",
    help="Signature. Default: STATEMENT.sig, if it exists.",
)
def verify(options: Options) -> int:
    """Check a published statement: its signature, and every figure from its rows."""
    return main(options)
