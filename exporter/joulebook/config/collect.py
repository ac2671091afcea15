"""Keys of the configuration file for one ledger of many nodes, `joulebook collect`.

See `config.sections` for how they are documented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from joulebook.config.sections import Section, doc


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


def conflicts(collect: Collect) -> Iterator[tuple[str, str]]:
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
