"""The tables of the collected ledger, for SQLAlchemy: the same on sqlite and PostgreSQL.

Every amount is a whole number of 64 bits that the program adds up (SQL of sqlite would go over to
floating point in silence). Values that many rows share have a number, given on first use.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem

from joulebook.lab.collected.months import QUARTERLY
from joulebook.lab.collected.statements import (
    MOVED,
    PARTS,
    VIEWS,
    kept_closed,
    other_partition,
    statements,
)

HEAD = "0017"
"""The revision of these tables."""

METADATA = MetaData()


def _number(
    name: str, *more: SchemaItem, default: int | None = None, kind: type[Integer] = Integer
) -> Column[int]:
    given = None if default is None else str(default)
    return Column(name, kind, *more, nullable=False, server_default=given)


def _ints(*names: str) -> list[Column[int]]:
    return [_number(name) for name in names]


def _longs(*names: str, default: int | None = None) -> list[Column[int]]:
    return [_number(name, default=default, kind=BigInteger) for name in names]


def _texts(*names: str, default: str | None = None) -> list[Column[str]]:
    return [Column(name, Text, nullable=False, server_default=default) for name in names]


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True, autoincrement=False)


def _owner(name: str) -> Column[int]:
    return _number(name, ForeignKey("owners.id"))


_LEDGER = "ledgers.id"
_QUARTERLY = "RANGE (quarter_s)"
"""PostgreSQL keeps each month of the quarter hours in a partition, and what fits in none in one."""

# One line per ledger that ever was: a node that began anew has two. position and rows change in
# one transaction, so whoever is interrupted goes on where it was.
Table(
    "ledgers", METADATA, _id(),
    Column("ledger_id", Text, nullable=False, unique=True),  # the node's own random name for it
    *_texts("cluster", "node"),
    *_longs("created_s",  # UTC
            "position",  # the number up to which all its rows are here
            "last_seq",  # the newest number there, when it was last asked
            "booked_to_s",  # UTC up to which the node had committed then
            "seen_s"),  # UTC of the last page
    *_texts("target"),  # where it was asked
    *_texts("writer", default=""),  # the run of the daemon that gave `position`; '': not known
)  # fmt: skip
Table(
    "meters", METADATA, _id(), _number("ledger", ForeignKey(_LEDGER)),
    *_longs("local_id"), *_texts("component", "name", "model"),
    *_longs("booked_uj",  # what the node's books said in all
            "expired_uj"),  # what of it had left the node for its age
    # What the rows of a meter come to here: at the end of a ledger what the node's books say.
    *_longs("posted_uj", default=0),
    # Energy of a recorded trace (a demo, a replay) is not measured, and bills say so.
    _number("replayed", default=0),
    UniqueConstraint("ledger", "local_id"),
)  # fmt: skip
# The same for what was charged.
Table(
    "charged", METADATA, _number("ledger", ForeignKey(_LEDGER)), *_texts("item", "currency"),
    *_longs(*PARTS, *(f"expired_{part}" for part in PARTS)),
    PrimaryKeyConstraint("ledger", "item", "currency"),
)  # fmt: skip
# Whom amounts are billed to: an experiment of somebody's, or a remainder ('': none).
Table(
    "owners", METADATA, _id(), *_texts("remainder", "account", "person", "experiment"),
    UniqueConstraint("account", "experiment", "person", "remainder"),
)  # fmt: skip
# A node says whose its own rows are, and numbers come again: so a workload is one of a ledger, with
# its begin. What runs on several nodes is put together when it is reported.
# Ledger 0: a row of before, which several nodes may share.
Table(
    "workloads", METADATA, _id(), *_ints("ledger"), *_texts("cluster", "scheduler", "workload"),
    *_longs("start"),  # UTC seconds; 0: the name is unique for all time
    _owner("owner"),
    _number("relabelled", default=0),  # 1: a person said whose it is, nodes do not any more
    UniqueConstraint("workload", "scheduler", "start", "ledger", "cluster"),
    Index("workloads_by_owner", "owner"),
)  # fmt: skip
# What each node knows of a workload.
Table(
    "facts", METADATA, _number("ledger", ForeignKey(_LEDGER)),
    _number("workload", ForeignKey("workloads.id")),
    *_texts("display", "name", "person", "account", "experiment"),
    Column("started_utc_ns", BigInteger), Column("ended_utc_ns", BigInteger),
    *_ints("complete"), *_longs("gpu_count"),
    *_texts("evidence", "extra"),  # a JSON object of strings
    *_longs("scheduler_start_s", default=0),  # the same on every node; 0: not known
    _number("named", default=0),  # 1: a person gave the experiment its name
    *_texts("stage", "outcome", default=""),
    PrimaryKeyConstraint("workload", "ledger"), Index("facts_by_display", "display"),
    Index("facts_by_end", "ended_utc_ns"),
)  # fmt: skip
# Short names for what many postings and charges have in common.
for _name, _columns in {
    "hows": ("remainder", "method", "evidence"),
    "kinds": ("remainder", "item", "currency"),
}.items():
    Table(_name, METADATA, _id(), *_texts(*_columns), UniqueConstraint(*_columns))
Table(
    "rates", METADATA, _id(), *_texts("quantity"), *_longs("value"),
    *_texts("unit", "source", "quality"),
    UniqueConstraint("quantity", "value", "unit", "source", "quality"),
)  # fmt: skip
# Quarter hours (UTC start). Where a ledger's month is in `compacted`, a row stands for a day.
Table(
    "postings", METADATA, *_ints("ledger"), *_longs("quarter_s"),
    *_ints("meter", "workload",  # 0: a remainder
           "how"),
    *_longs("energy_uj", "idle_uj", "held_ns"), *_longs("idle_ns", "calibration_uj", default=0),
    # 1: dated by a clock that was wrong, to a time that cannot be. Kept, not billed, not reported,
    # until the node dates it anew.
    _number("undated", default=0),
    # How much of the held time tensor cores worked, and the held time for which that is known.
    *_longs("tensor_ns", "tensor_known_ns", default=0),
    PrimaryKeyConstraint("ledger", "quarter_s", "meter", "workload", "how"),
    Index("postings_by_workload", "workload", "quarter_s"), postgresql_partition_by=_QUARTERLY,
)  # fmt: skip
Table(
    "charges", METADATA, *_ints("ledger"), *_longs("quarter_s"), *_ints("workload", "kind"),
    *_longs(*PARTS), _number("undated", default=0),
    PrimaryKeyConstraint("ledger", "quarter_s", "workload", "kind"),
    Index("charges_by_workload", "workload", "quarter_s"), postgresql_partition_by=_QUARTERLY,
)  # fmt: skip
Table(
    "rates_used", METADATA, *_ints("ledger"), *_longs("quarter_s"), *_ints("rate"),
    *_longs("energy_uj", "held_ns"),
    PrimaryKeyConstraint("ledger", "quarter_s", "rate"), postgresql_partition_by=_QUARTERLY,
)  # fmt: skip
Table(
    "gaps", METADATA, *_ints("ledger", "meter"), *_texts("reason"),
    *_longs("t0_utc_ns", "t1_utc_ns"),
    PrimaryKeyConstraint("ledger", "meter", "reason", "t0_utc_ns"),
)  # fmt: skip
# Bills: by day what postings and charges come to, by whose they are and in which month they are
# billed (a number: 202611). A row whose month is not that of its day came after that month was
# closed. What is not of this month by its day is therefore a late entry, and says of which it is.
_BILL = ("ledger", "day_s", "month", "workload")
Table(
    "used", METADATA, *_ints("ledger"), *_longs("day_s"), *_ints("month", "workload"),
    _owner("owner"), *_texts("component"), *_longs("energy_uj", "idle_uj", "held_ns"),
    *_longs("idle_ns", default=0),
    PrimaryKeyConstraint("ledger", "day_s", "workload", "owner", "component", "month"),
    Index("used_by_month", "month"), Index("used_by_workload", "workload"),
)  # fmt: skip
Table(
    "billed", METADATA, *_ints("ledger"), *_longs("day_s"), *_ints("month", "workload"),
    _owner("owner"), *_texts("item", "currency"), *_longs(*PARTS),
    PrimaryKeyConstraint("ledger", "day_s", "workload", "owner", "item", "currency", "month"),
    Index("billed_by_month", "month"), Index("billed_by_workload", "workload"),
)  # fmt: skip
# The same by month and owner, which is what a bill shows: `late_for` is the month of the day where
# that is another one (0: it is not).
Table(
    "month_used", METADATA, *_ints("month"), _owner("owner"), *_ints("late_for"),
    *_texts("component"), *_longs("energy_uj", "idle_uj", "held_ns", "idle_ns"),
    PrimaryKeyConstraint("month", "owner", "late_for", "component"),
)  # fmt: skip
Table(
    "month_billed", METADATA, *_ints("month"), _owner("owner"), *_ints("late_for"),
    *_texts("item", "currency"), *_longs(*PARTS),
    PrimaryKeyConstraint("month", "owner", "late_for", "item", "currency"),
)  # fmt: skip
# The last month that is closed; 0: none is. All that writes to bills locks this row first.
# And the first month, with the UTC second of its begin, whose bills have the part of each cost that
# is for idle time (0: all have it). Months that were closed before are not added to.
Table(
    "closing", METADATA, Column("one", Integer, CheckConstraint("one = 1"), primary_key=True,
                                autoincrement=False),
    *_ints("closed_to"), _number("idle_from", default=0), *_longs("idle_from_s", default=0),
)  # fmt: skip
Table(
    "periods", METADATA, Column("month", Integer, primary_key=True, autoincrement=False),
    *_longs("closed_s"),
    Column("closed_by", Text, CheckConstraint("length(closed_by) > 0"), nullable=False),
)  # fmt: skip
Table(
    "corrections", METADATA, _id(), *_ints("month"),  # in which it counts
    *_longs("made_s"), *_texts("kind"),  # correction, relabel, late labels
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    Column("why", Text, CheckConstraint("length(why) > 0"), nullable=False),
)  # fmt: skip
# Each row takes an amount from one owner and gives it to another: a correction cannot but balance.
# They are written before the correction they belong to (the reference is looked at in the end), and
# none can be added once that is there.
Table(
    "transfers", METADATA,
    _number("correction", ForeignKey("corrections.id", deferrable=True, initially="DEFERRED")),
    *_ints("line", "month"), _owner("from_owner"), _owner("to_owner"),
    *_ints("workload"),  # 0: of no workload
    *_texts("component"),  # '': money or CO2e
    *_longs(*MOVED), *_texts("item", "currency"),  # '': energy
    *_longs(*PARTS), *_longs("idle_ns", default=0),
    *(CheckConstraint(f"{name} >= 0") for name in (*MOVED, *PARTS, "idle_ns")),
    PrimaryKeyConstraint("correction", "line"),
    CheckConstraint("from_owner <> to_owner"), CheckConstraint("(component = '') <> (item = '')"),
    CheckConstraint("component <> '' OR (energy_uj = 0 AND idle_uj = 0 AND held_ns = 0)"),
    CheckConstraint("item <> '' OR (whole = 0 AND nano = 0 AND rest = 0)"),
    Index("transfers_by_month", "month"), Index("transfers_by_workload", "workload"),
)  # fmt: skip
# Closed months of which a ledger's quarter hours are days now.
Table(
    "compacted", METADATA, *_ints("month", "ledger"), *_longs("made_s"),
    *_ints("late",  # 1: rows came since, which no export has
           "packed"),  # 1: the disk has what the quarter hours took
    PrimaryKeyConstraint("month", "ledger"),
)  # fmt: skip
# What a workload was charged at on such a day: JSON of the number of a rate (for its quantity,
# unit, source and quality) and of up to four values, each with its energy (uJ) or held time (ns).
Table(
    "day_rates", METADATA, *_ints("workload"), *_longs("quarter_s"), *_ints("ledger"),
    *_texts("used"), PrimaryKeyConstraint("workload", "quarter_s", "ledger"),
)  # fmt: skip
# Months whose quarter hours are in Parquet files; `state` is what they came to then.
Table(
    "exported", METADATA, *_ints("month", "ledger"), *_longs("made_s"),
    *_texts("directory", "state"), PrimaryKeyConstraint("month", "ledger"),
)  # fmt: skip
# Tokens and requests of a served model by quarter hour (0: none; no row: its server was not read).
Table(
    "tokens", METADATA, *_longs("quarter_s"),
    *_texts("account", "experiment", "model_name", "kind"), *_ints("workload"), *_longs("tokens"),
    PrimaryKeyConstraint("quarter_s", "account", "experiment", "model_name", "kind", "workload"),
)  # fmt: skip
# What it cost: `item` of energy (`gpu`, `host`: uJ in `whole`), money or CO2e, or a phase that was
# measured; over models, idle and not, it is what was booked. And the sums that are exposed.
_SERVED = ("model_name", "item", "currency")
_OF_TOTALS = ("cluster", "account", "experiment", *_SERVED)
Table(
    "served", METADATA, *_longs("workload", "quarter_s"), *_texts(*_SERVED), *_ints("idle"),
    *_longs(*PARTS), PrimaryKeyConstraint("workload", "quarter_s", *_SERVED, "idle"),
    Index("served_by_quarter", "quarter_s"),
)  # fmt: skip
Table(
    "serving_totals", METADATA, *_texts(*_OF_TOTALS), *_ints("idle"),
    *_longs(*PARTS, "changed_s"), PrimaryKeyConstraint(*_OF_TOTALS, "idle"),
)  # fmt: skip
# Counters of model servers, as they were read last.
Table(
    "serving_counters", METADATA, *_ints("workload"), *_texts("target", "model_name", "kind"),
    *_longs("value", "read_s", "started_s"),
    PrimaryKeyConstraint("workload", "target", "model_name", "kind"),
)  # fmt: skip
# Nodes that came back under another name, with the ledger that they had.
Table(
    "renames", METADATA, _id(), _number("ledger", ForeignKey(_LEDGER)), *_longs("seen_s"),
    *_texts("cluster", "node",  # before
            "new_cluster", "new_node", "target"),  # where it was found under the new name
    _number("undone", default=0),  # 1: a person said that it is not that node
)  # fmt: skip
# Secrets are kept as SHA-256 only. A nonce is used up by being deleted.
Table("lab_nonces", METADATA, Column("nonce", Text, primary_key=True), *_longs("until_s"))
# Sessions of browsers and commands, links into the browser, and tokens of programs.
Table(
    "lab_grants", METADATA, Column("secret", Text, primary_key=True),
    *_texts("kind", "person", "how", "name"), *_longs("until_s"),
    *_texts("accounts", default="[]"),  # JSON: coordinated besides, as the way of proof said
)  # fmt: skip
Table("lab_results", METADATA, _id(), *_texts("person", "name", "text", "asked"), *_longs("made_s"))
# Jobs whose AdminComment was looked at: `what` became of it.
Table(
    "lab_commented", METADATA, *_texts("cluster", "job"), *_longs("start_s", "made_s"),
    *_texts("what"), PrimaryKeyConstraint("cluster", "job", "start_s"),
)  # fmt: skip
# Names that are replaced in what comes, by keyed hash; and the key.
Table("lab_forgotten", METADATA, Column("digest", Text, primary_key=True), *_texts("kind", "alias"))
# Statements and notices that went out: `period` is a month, or a day in UTC seconds.
Table(
    "lab_sent", METADATA, Column("kind", Text, nullable=False), *_longs("period"),
    *_texts("person", "account", "destination"), *_longs("made_s"),
    PrimaryKeyConstraint("kind", "period", "person", "account", "destination"),
)  # fmt: skip
Table("lab_audit", METADATA, _id(), *_longs("when_s"), *_texts("who", "how", "what"))
# Versions before Alembic read this, and say in words that the ledger is newer.
Table("joulebook_schema", METADATA, *_ints("version"))


def create(connection: sa.Connection) -> None:
    """Make all of it in an empty database."""
    METADATA.create_all(connection)
    for statement in (
        *(other_partition(name) for name in QUARTERLY if connection.dialect.name == "postgresql"),
        *VIEWS,
        "INSERT INTO closing VALUES (1, 0, 0, 0)",
        f"INSERT INTO joulebook_schema VALUES ({int(HEAD)})",  # noqa: S608
        *statements(f"closed.{connection.dialect.name}"),
        *kept_closed(connection.dialect.name, "used", "billed", "month_used", "month_billed"),
    ):
        connection.exec_driver_sql(statement)
