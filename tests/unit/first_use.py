"""Run as a program: lets 24 threads be the first to use a type, in many processes.

    python tests/unit/first_use.py USE ROUNDS

Prints how many processes ended by a signal.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import cast

import msgspec

from joulebook.config import Config
from joulebook.config.lab import Collect
from joulebook.config.load import read
from joulebook.core.ledger.export import MeterRow, PostingsPage
from joulebook.http_client import Web
from joulebook.lab.collect.client import NodeClient
from joulebook.ledger.export import _workload
from joulebook.rates.contract import decoded
from joulebook.rates.feeds.server import _DOCUMENT, QuantityRates, RatesDocument

THREADS = 24


class Answers:
    """The part of `Web` that a client needs."""

    def __init__(self, body: bytes) -> None:
        self.get = lambda *args, **named: body


def page() -> Callable[[], object]:
    """Collect a page."""
    meter = MeterRow(1, "gpu", "a", "b", 1, 1)
    client = NodeClient(Collect())
    client._web.value = cast(
        Web, Answers(msgspec.json.encode(PostingsPage(1, "n", "c", "l", 1, 0, 1, 1, 1, (meter,))))
    )
    return lambda: client.page("http://127.0.0.1:1", 0, "")


def row() -> Callable[[], object]:
    """Read a workload from the ledger."""
    columns = (
        1,
        1,
        "slurm",
        "7",
        "7",
        "",
        "u",
        "a",
        "e",
        1,
        None,
        1,
        1,
        "prolog",
        "{}",
        1,
        0,
        0,
        "",
        "",
    )
    return lambda: _workload(columns)


def rates() -> Callable[[], object]:
    """Read the answer of a rates server."""
    body = msgspec.json.encode(RatesDocument(1, "EUR", "DE", QuantityRates("x", ())))
    return lambda: decoded(body, _DOCUMENT, "server")


def settings() -> Callable[[], object]:
    """Read a configuration."""
    window = {"days": "mon", "from": "08:00", "to": "20:00", "per_kwh": 0.3}
    data = {"rates": {"price": {"kind": "schedule", "windows": [window]}}}
    return lambda: read(Config, data, "file")


USES = {use.__name__: use for use in (page, row, rates, settings)}


def hammer(call: Callable[[], object]) -> bool:
    """Whether all threads got through."""
    began: list[bool] = []
    done: list[bool] = []

    def use() -> None:
        while not began:  # No barrier: its lock would let the threads through one by one.
            pass
        done.append(bool(call()))

    sys.setswitchinterval(1e-4)
    threads = [threading.Thread(target=use) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    began.append(True)
    for thread in threads:
        thread.join()
    return len(done) == THREADS


def crashes(call: Callable[[], object], rounds: int) -> int:
    """How many of so many processes, which have not used a type yet, end other than well."""
    bad = 0
    for _ in range(rounds):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if hammer(call) else 1)
        bad += os.waitpid(pid, 0)[1] != 0
    return bad


if __name__ == "__main__":
    print(crashes(USES[sys.argv[1]](), int(sys.argv[2])))
