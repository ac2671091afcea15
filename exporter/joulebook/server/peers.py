"""Who is on the other end of a connection, as the kernel or a certificate says."""

from __future__ import annotations

import asyncio
import socket
import struct

PEER_UID = "uid:"
"""On a Unix socket a client's address is this and the uid of its process, as the kernel says."""


PEER_NAMES = "peer_names"
"""In `scope["state"]`: the names in a client's verified certificate (TLS)."""


def peer_names(transport: asyncio.Transport) -> frozenset[str]:
    """Return the names in a client's certificate that was verified."""
    told = transport.get_extra_info("peercert") or {}
    common = (value for part in told.get("subject", ()) for key, value in part
              if key == "commonName")  # fmt: skip
    return frozenset((*common, *(value for _, value in told.get("subjectAltName", ()))))


def peer_uid(transport: asyncio.Transport) -> int | None:
    """Return the uid of the process on the other end of a Unix socket."""
    client = transport.get_extra_info("socket")
    if client is None or client.family != socket.AF_UNIX:
        return None
    told = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", told)[1])
