"""Ports of loopback for the programs that tests start."""

from __future__ import annotations

import random
import socket

_RANGE = (20_000, 32_000)
"""Below the ports that Linux takes for outgoing connections: no such connection can take a port
between this call and the start of the program that is to listen there."""

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
