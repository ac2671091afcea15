"""Keys for the lab: `[collect]`, `[report]` and `[budgets]`.

A budget does not change what is booked; it is exposed as `joulebook_budget`, and alerts compare it
with the counters.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from joulebook.config.node import Section, doc
from joulebook.core.report import footprint
from joulebook.core.workloads import Allowance


class EmbodiedSection(Section, frozen=True):
    """Embodied CO2e of one GPU of this model, as a range."""

    low_kg: Annotated[float, doc("Lower bound, in kg of CO2e.", ge=0)]
    high_kg: Annotated[float, doc("Upper bound, in kg of CO2e.", ge=0)]
    source: Annotated[str, doc("Source of these numbers.")]


class ReportSection(Section, frozen=True):
    """What reports need beyond the ledger. Whatever is not set is unknown or a marked default."""

    region: Annotated[
        str, doc('Location of the machines, as a paper would state it: "Frankfurt, Germany".')
    ] = ""
    prometheus: Annotated[
        str,
        doc("URL of Prometheus, VictoriaMetrics, Thanos or Mimir, for reports from its data."),
    ] = ""
    sacct: Annotated[
        str,
        doc(
            'Path of SLURM\'s sacct, which tells how runs ended. "auto": the first on PATH. '
            "Empty: not called."
        ),
    ] = "auto"
    sensor_percent: (
        Annotated[
            float,
            doc(
                "Measurement error of the meters in percent, from a calibration. Not set: "
                f"{footprint.SENSOR_PERCENT:g}, marked as a default.",
                ge=0,
                le=100,
            ),
        ]
        | None
    ) = None
    sensor_source: Annotated[str, doc("Source of that calibration; shown next to it.")] = ""
    market_grams_per_kwh: (
        Annotated[
            float,
            doc(
                "Grams of CO2e per kWh by contract or certificates, for the market-based figure "
                "next to the location-based one. Not set: unknown.",
                ge=0,
            ),
        ]
        | None
    ) = None
    market_source: Annotated[
        str,
        doc(
            "The contract, certificate or residual mix behind it, and its year. Required with "
            "`market_grams_per_kwh`."
        ),
    ] = ""
    stages: Annotated[
        dict[str, str],
        doc(
            "Stage of runs whose author states none, by name of the run or experiment (`*` matches "
            'anything; the first match wins): "*-eval*" = "evaluation"'
        ),
    ] = {}
    host_multiplier: (
        Annotated[
            float,
            doc(
                "Energy of GPUs and hosts per energy of GPUs, for hosts without a meter. Shown "
                "apart, as modelled. Not set: nothing is modelled.",
                ge=1,
                le=10,
            ),
        ]
        | None
    ) = None
    host_source: Annotated[str, doc("Source of `host_multiplier`; required with it.")] = ""
    network_multiplier: (
        Annotated[
            float,
            doc(
                "Energy of nodes and network per energy of nodes. Shown apart, as modelled. Not "
                "set: nothing is modelled.",
                ge=1,
                le=10,
            ),
        ]
        | None
    ) = None
    network_source: Annotated[str, doc("Source of `network_multiplier`; required with it.")] = ""
    server_kg: (
        Annotated[
            float,
            doc(
                "Embodied CO2e of a server without its GPUs, in kilograms. Not set: "
                f"{footprint.SERVER_KG:g} ({footprint.SERVER_SOURCE}), marked as a default.",
                ge=0,
            ),
        ]
        | None
    ) = None
    server_gpus: (
        Annotated[
            int,
            doc(
                f"GPUs per server. Not set: {footprint.SERVER_GPUS}, marked as a default.",
                ge=1,
            ),
        ]
        | None
    ) = None
    server_life_years: (
        Annotated[
            float,
            doc(
                f"Service life of a server in years. Not set: {footprint.LIFE_YEARS:g}, marked "
                "as a default.",
                gt=0,
            ),
        ]
        | None
    ) = None
    embodied: Annotated[
        dict[str, EmbodiedSection],
        doc(
            "Embodied CO2e by GPU model, overriding published values (`*` matches anything): "
            '"NVIDIA H200*" = { low_kg = 170, high_kg = 600, source = "our LCA" }'
        ),
    ] = {}


def report_conflicts(report: ReportSection) -> Iterator[tuple[str, str]]:
    """Yield each key that is wrong, and what is wrong with it."""
    for name in ("host", "network"):
        multiplier = getattr(report, f"{name}_multiplier")
        if multiplier is not None and not getattr(report, f"{name}_source"):
            key = f"report.{name}_source"
            yield key, f"expected the source of report.{name}_multiplier = {multiplier:g}"


class Budget(Section, frozen=True):
    """What an experiment or account may use: either `kwh` or `cost`."""

    kwh: Annotated[float, doc("Kilowatt-hours, as metered (without PUE).", gt=0)] | None = None
    cost: Annotated[float, doc("Money, in `rates.currency`.", gt=0)] | None = None


def split(name: str) -> tuple[str, str]:
    """Split `account/experiment` or `account`; the experiment may contain slashes.

    Raises `ValueError` with what is expected.
    """
    account, slash, experiment = name.partition("/")
    if not account or (slash and not experiment):
        raise ValueError('expected "account/experiment", or "account" for all of an account')
    return account, experiment


def budget_conflicts(budgets: Mapping[str, Budget]) -> Iterator[tuple[str, str]]:
    """Check what the types of single keys cannot: yield the key, and what is wrong with it."""
    for name, budget in budgets.items():
        try:
            split(name)
        except ValueError as error:
            yield f'budgets."{name}"', str(error)
        if (budget.kwh is None) == (budget.cost is None):
            yield f'budgets."{name}"', "expected either kwh or cost"


def allowances(budgets: Mapping[str, Budget], currency: str) -> tuple[Allowance, ...]:
    """Return the budgets as exposed."""
    return tuple(
        Allowance(*split(name), "kwh", budget.kwh)
        if budget.kwh is not None
        else Allowance(*split(name), currency, budget.cost or 0.0)
        for name, budget in sorted(budgets.items())
    )


COLLECT_LISTEN = "127.0.0.1:9818"
"""Where `joulebook collect` answers, unless told otherwise."""


class Collect(Section, frozen=True):
    """The collector, which copies the ledgers of many nodes into one."""

    targets: Annotated[
        tuple[str, ...],
        doc("Daemons to collect from: host:port, or http(s)://host:port."),
    ] = ()
    file_sd: Annotated[
        tuple[str, ...],
        doc(
            "Files of targets in Prometheus' format (file_sd), JSON or YAML; the file name may "
            "contain `*`."
        ),
    ] = ()
    http_sd: Annotated[str, doc("URL of a list of targets in Prometheus' format (http_sd).")] = ""
    kubernetes: Annotated[
        bool, doc("Find the daemons through the API server, as EndpointSlices of a Service.")
    ] = False
    kubernetes_service: Annotated[str, doc("Name of the Service.")] = "joulebook"
    kubernetes_namespace: Annotated[
        str, doc("Namespace of the Service. Empty: the collector's own.")
    ] = ""
    kubernetes_port_name: Annotated[str, doc("Name of the Service's port.")] = "http"
    scheme: Annotated[Literal["http", "https"], doc("Scheme of targets that do not state one.")] = (
        "http"
    )
    token_file: Annotated[
        str, doc("File with the bearer token for the daemons (their `server.token_file`).")
    ] = ""
    user: Annotated[str, doc("User for basic auth, if a proxy requires it.")] = ""
    password_file: Annotated[str, doc("File with the password for basic auth.")] = ""
    ca_file: Annotated[str, doc("CA certificates (PEM) to trust. Empty: the system's.")] = ""
    server_name: Annotated[
        str,
        doc(
            "Host name expected in the daemons' certificates, if targets are IP addresses. "
            "Empty: the host of each target."
        ),
    ] = ""
    cert_file: Annotated[str, doc("Client certificate (PEM) for daemons that require one.")] = ""
    key_file: Annotated[str, doc("Key (PEM) of the client certificate.")] = ""
    url: Annotated[
        str,
        doc(
            "The collected ledger: sqlite:///var/lib/joulebook/collected.db (an absolute path) "
            "or postgresql://user@host:5432/joulebook. Put the password in PGPASSFILE."
        ),
    ] = ""
    every_s: Annotated[float, doc("Seconds between requests to a node.", ge=1, le=86_400)] = 300.0
    timeout_s: Annotated[
        float,
        doc(
            "Timeout of connecting to a node and of each wait for its response, in seconds.",
            gt=0,
            le=300,
        ),
    ] = 10.0
    parallel: Annotated[int, doc("Number of nodes to query at a time.", ge=1, le=256)] = 16
    refresh_s: Annotated[
        float, doc("Seconds between refreshes of the targets.", ge=1, le=86_400)
    ] = 30.0
    listen: Annotated[
        str,
        doc(
            "host:port for the collector's own /metrics, /healthz and /readyz, open to whoever "
            f"reaches it. Empty: {COLLECT_LISTEN} with `joulebook collect`, none with `joulebook "
            "lab`, which has these at `lab.listen`."
        ),
    ] = ""


def collect_conflicts(collect: Collect) -> Iterator[tuple[str, str]]:
    """Check what the types of single keys cannot: yield the key, and what is wrong with it."""
    for target in collect.targets:
        if not is_target(target):
            yield "collect.targets", f"{target!r}: expected host:port or http(s)://host:port"
    if collect.http_sd and urlsplit(collect.http_sd).scheme not in {"http", "https"}:
        yield "collect.http_sd", f"{collect.http_sd!r}: expected http(s)://host:port/path"
    if collect.url and not re.match(r"(sqlite:///|postgres(ql)?://)", collect.url):
        yield (
            "collect.url",
            "expected sqlite:///absolute/path or postgresql://host:port/database",
        )
    for one, other in (("user", "password_file"), ("cert_file", "key_file")):
        if bool(getattr(collect, one)) != bool(getattr(collect, other)):
            yield f"collect.{other}", f"expected together with collect.{one}, or neither"


def is_target(text: str) -> bool:
    """Return whether `text` is the address of a daemon."""
    scheme, mark, rest = text.rpartition("://")
    if mark and scheme not in {"http", "https"}:
        return False
    return bool(re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}", rest.rstrip("/"), re.ASCII))
