"""Keys of the configuration file for the lab: `[collect]`, `[report]` and `[budgets]`.

See `config.node` for how keys are documented. A budget changes nothing that is booked; it is shown
as `joulebook_budget`, and alerts compare it with the counters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from joulebook.config.node import Section, doc
from joulebook.core.report import footprint
from joulebook.core.workloads import Allowance


class EmbodiedSection(Section, frozen=True):
    """Embodied CO2e of one GPU of a model, as a range."""

    low_kg: Annotated[float, doc("Kilograms of CO2e, the least.", ge=0)]
    high_kg: Annotated[float, doc("Kilograms of CO2e, the most.", ge=0)]
    source: Annotated[str, doc("Who says so.")]


class ReportSection(Section, frozen=True):
    """What reports need beyond the ledger. What is not set is not known, or a marked default."""

    region: Annotated[
        str, doc('Where the machines are, as a paper names it: "Frankfurt, Germany".')
    ] = ""
    prometheus: Annotated[
        str,
        doc("Address of Prometheus, VictoriaMetrics, Thanos or Mimir, for reports from there."),
    ] = ""
    sacct: Annotated[
        str,
        doc('SLURM\'s sacct, asked how runs ended: "auto" looks in PATH, empty: not asked.'),
    ] = "auto"
    sensor_percent: (
        Annotated[
            float,
            doc(
                "Error of the meters in percent, from a calibration. Not set: "
                f"{footprint.SENSOR_PERCENT:g}, and marked as a default.",
                ge=0,
                le=100,
            ),
        ]
        | None
    ) = None
    sensor_source: Annotated[str, doc("Which calibration that is; shown beside it.")] = ""
    market_grams_per_kwh: (
        Annotated[
            float,
            doc(
                "Grams of CO2e per kWh by your contract or certificates, for the market-based "
                "figure beside the location-based one. Not set: it is not known.",
                ge=0,
            ),
        ]
        | None
    ) = None
    market_source: Annotated[
        str, doc("Which contract, certificate or residual mix that is, and its year; needed.")
    ] = ""
    server_kg: (
        Annotated[
            float,
            doc(
                "Embodied CO2e of a server without its GPUs, in kilograms. Not set: "
                f"{footprint.SERVER_KG:g} ({footprint.SERVER_SOURCE}), and marked as a default.",
                ge=0,
            ),
        ]
        | None
    ) = None
    server_gpus: (
        Annotated[
            int,
            doc(
                f"GPUs in a server. Not set: {footprint.SERVER_GPUS}, and marked as a default.",
                ge=1,
            ),
        ]
        | None
    ) = None
    server_life_years: (
        Annotated[
            float,
            doc(
                "Years that a server serves. Not set: "
                f"{footprint.LIFE_YEARS:g}, and marked as a default.",
                gt=0,
            ),
        ]
        | None
    ) = None
    embodied: Annotated[
        dict[str, EmbodiedSection],
        doc(
            "Embodied CO2e by GPU model, over what is published (`*` stands for anything): "
            '"NVIDIA H200*" = { low_kg = 170, high_kg = 600, source = "our LCA" }'
        ),
    ] = {}


class Budget(Section, frozen=True):
    """What an experiment may use; `kwh` or `cost`."""

    kwh: Annotated[float, doc("Kilowatt-hours, as the meters read them (no PUE).", gt=0)] | None = (
        None
    )
    cost: Annotated[float, doc("Money, in `rates.currency`.", gt=0)] | None = None


def split(name: str) -> tuple[str, str]:
    """`account/experiment` or `account`, in its parts; an experiment may have slashes of its own.

    Raises `ValueError` saying what would be right.
    """
    account, slash, experiment = name.partition("/")
    if not account or (slash and not experiment):
        raise ValueError('expected "account/experiment", or "account" for all of an account')
    return account, experiment


def budget_conflicts(budgets: Mapping[str, Budget]) -> Iterator[tuple[str, str]]:
    """What the type of each key alone cannot tell: the key, and what is wrong with it."""
    for name, budget in budgets.items():
        try:
            split(name)
        except ValueError as error:
            yield f'budgets."{name}"', str(error)
        if (budget.kwh is None) == (budget.cost is None):
            yield f'budgets."{name}"', "expected either kwh or cost"


def allowances(budgets: Mapping[str, Budget], currency: str) -> tuple[Allowance, ...]:
    """The budgets as they are shown."""
    return tuple(
        Allowance(*split(name), "kwh", budget.kwh)
        if budget.kwh is not None
        else Allowance(*split(name), currency, budget.cost or 0.0)
        for name, budget in sorted(budgets.items())
    )


class Collect(Section, frozen=True):
    """Many nodes' ledgers into one."""

    targets: Annotated[
        tuple[str, ...],
        doc("The daemons to collect from: host:port, or http(s)://host:port."),
    ] = ()
    file_sd: Annotated[
        tuple[str, ...],
        doc("Files of targets as Prometheus reads them, JSON or YAML; `*` in the file name."),
    ] = ()
    http_sd: Annotated[str, doc("URL of a list of targets, as Prometheus reads it.")] = ""
    kubernetes: Annotated[
        bool, doc("Find the daemons through the API server: EndpointSlices of a Service.")
    ] = False
    kubernetes_service: Annotated[str, doc("Name of that Service.")] = "joulebook"
    kubernetes_namespace: Annotated[str, doc("Its namespace. Empty: the collector's own.")] = ""
    kubernetes_port_name: Annotated[str, doc("Name of its port.")] = "http"
    scheme: Annotated[
        Literal["http", "https"], doc("How targets that do not say so are spoken to.")
    ] = "http"
    token_file: Annotated[
        str, doc("File with the token shown to the daemons, their `server.token_file`.")
    ] = ""
    user: Annotated[str, doc("Name for basic auth, where a proxy asks for it.")] = ""
    password_file: Annotated[str, doc("File with its password.")] = ""
    ca_file: Annotated[
        str, doc("Certificates (PEM) of the authorities to trust. Empty: those of the system.")
    ] = ""
    server_name: Annotated[
        str,
        doc(
            "Name that the daemons' certificates must be for, where targets are addresses. Empty: "
            "the host of each target."
        ),
    ] = ""
    cert_file: Annotated[str, doc("Certificate (PEM) shown to daemons that ask for one.")] = ""
    key_file: Annotated[str, doc("Its key (PEM).")] = ""
    url: Annotated[
        str,
        doc(
            "The common ledger: sqlite:///var/lib/joulebook/collected.db (an absolute path) or "
            "postgresql://user@host:5432/joulebook. A password belongs into PGPASSFILE."
        ),
    ] = ""
    every_s: Annotated[
        float, doc("Seconds from one look at a node to the next.", ge=1, le=86_400)
    ] = 300.0
    timeout_s: Annotated[
        float, doc("Seconds for a connection and for each wait for a node.", gt=0, le=300)
    ] = 10.0
    parallel: Annotated[int, doc("Nodes asked at a time.", ge=1, le=256)] = 16
    refresh_s: Annotated[
        float, doc("Seconds from one look for targets to the next.", ge=1, le=86_400)
    ] = 30.0
    listen: Annotated[
        str, doc("host:port of the collector's own /metrics, /healthz and /readyz.")
    ] = "127.0.0.1:9818"


def collect_conflicts(collect: Collect) -> Iterator[tuple[str, str]]:
    """What the type of each key alone cannot tell: the key, and what is wrong with it."""
    for target in collect.targets:
        if not is_target(target):
            yield "collect.targets", f"{target!r}: expected host:port or http(s)://host:port"
    if collect.http_sd and urlsplit(collect.http_sd).scheme not in {"http", "https"}:
        yield "collect.http_sd", f"{collect.http_sd!r}: expected http(s)://host:port/path"
    if collect.url and not re.match(r"(sqlite:///|postgres(ql)?://)", collect.url):
        yield (
            "collect.url",
            "expected sqlite:///absolute/path or postgresql://user@host:port/database",
        )
    for one, other in (("user", "password_file"), ("cert_file", "key_file")):
        if bool(getattr(collect, one)) != bool(getattr(collect, other)):
            yield f"collect.{other}", f"expected together with collect.{one}, or neither"


def is_target(text: str) -> bool:
    """Whether that is an address of a daemon."""
    scheme, mark, rest = text.rpartition("://")
    if mark and scheme not in {"http", "https"}:
        return False
    return bool(re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}", rest.rstrip("/"), re.ASCII))
