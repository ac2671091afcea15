"""A collected ledger of three people, and a client of the lab server on it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from fastapi import FastAPI
from starlette.testclient import TestClient
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node

from joulebook.config import Config
from joulebook.config.lab import Collect
from joulebook.config.lab_server import LabSection
from joulebook.core.money.amounts import Exact
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import connect, opened
from joulebook.lab.web.app import make_app
from joulebook.lab.web.grants import GrantKind, Grants
from joulebook.lab.web.identity import Proxy
from joulebook.lab.web.kubernetes import Reviews
from joulebook.lab.web.service import Databases, Lab
from joulebook.lab.web.viewer import Directory
from joulebook.server.auth import Tokens
from joulebook.units import NS_PER_HOUR, NS_PER_S

NOW_S = NOVEMBER_S + 20 * 86_400
KWH_UJ = 3_600_000_000_000


def uj(kwh: int) -> int:
    """So many kWh, in digits that nothing else has."""
    return kwh * KWH_UJ + kwh * 111_111


def node() -> Node:
    """A node with jobs of three users in two accounts, and energy of nobody."""
    made = Node("n1", "a" * 32, "lab")
    for job, account, user, experiment in (
        ("101", "nlp", "ada", "bert"),
        ("102", "nlp", "grace", "secret-project"),
        ("103", "vision", "bob", "vit"),
    ):
        start_ns = (NOVEMBER_S + 3600) * NS_PER_S
        made.label(
            job, account, user, experiment, started_utc_ns=start_ns,
            ended_utc_ns=start_ns + NS_PER_HOUR, named=True, gpu_count=1,
        )  # fmt: skip
    for job, kwh in (("101", 1), ("102", 2), ("103", 4), ("", 8)):
        made.burn(NOVEMBER_S + 3600, uj(kwh), job, Exact(kwh, 0, 0), NS_PER_HOUR)
    return made


def filled(folder: Path, *nodes: Node, url: str = "") -> str:
    """A collected ledger of nodes (default: an sqlite file in a folder); its URL."""
    url = url or f"sqlite://{folder / 'collected.db'}"
    with opened(url, create=True) as database:
        for each in nodes or (node(),):
            ingest.take(database, each.page(0), each.name, NOW_S, frozenset({each.name}))
    return url


@contextlib.contextmanager
def served(
    url: str,
    reviews: Reviews | None = None,
    scheduler: Callable[[], Mapping[str, Collection[str]]] = dict,
    **lab: object,
) -> Iterator[TestClient]:
    """The lab server on a ledger, asked by a client of nobody in particular."""
    with application(url, reviews, scheduler, **lab) as app:
        yield TestClient(app, base_url="http://testserver")


@contextlib.contextmanager
def application(
    url: str,
    reviews: Reviews | None = None,
    scheduler: Callable[[], Mapping[str, Collection[str]]] = dict,
    **lab: object,
) -> Iterator[FastAPI]:
    """The application of a lab server on a ledger."""
    settings = LabSection(**lab)  # type: ignore[arg-type]
    config = Config(collect=Collect(url=url), lab=settings)
    made = Lab(
        config,
        Databases(functools.partial(connect, url)),
        Directory(
            frozenset(settings.admins),
            coordinators=settings.coordinators,
            public="totals" in settings.public,
            scheduler=scheduler,
            local=frozenset({"root"}),
        ),
        Proxy(
            settings.proxy_user,
            settings.proxy_header,
            Tokens(Path(settings.proxy_secret_file)) if settings.proxy_secret_file else None,
        ),
        "http://testserver",
        0,
        lambda: NOW_S,
        reviews,
    )
    try:
        yield make_app(made)
    finally:
        made.databases.close()


def bearer(url: str, user: str, now_s: Callable[[], float] = lambda: NOW_S) -> Mapping[str, str]:
    """The header with a token of a user."""
    with opened(url) as database:
        secret = Grants(database, now_s).make(GrantKind.TOKEN, user, "token", 3600)
    return {"Authorization": f"Bearer {secret}"}
