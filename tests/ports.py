"""Ports of loopback for the programs that tests start."""

from __future__ import annotations

import os
import random
import socket

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_EACH = 12_000 // _WORKERS
_FIRST = 20_000 + _EACH * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

_RANGE = (_FIRST, _FIRST + _EACH)
"""Below the ports that Linux takes for outgoing connections, and another part for each worker:
nobody can take a port between this call and the start of the program that is to listen there."""

_chance = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on; each is given once."""
    while True:
        port = _chance.randrange(*_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
