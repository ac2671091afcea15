"""Figures of a run: the daemon's answer to `GET /v1/runs`, and how a client gets it.

The daemon writes what programs read, so the format is here, in whole units that can be added up
over windows, nodes and ranks. The client speaks HTTP by the standard library.
"""

from __future__ import annotations

import os
import re

import msgspec

from joulebook import daemon_address
from joulebook.errors import SourceError

TYPE_CHECKING = False  # `typing` itself is not loaded into other people's programs
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

URL = "JOULEBOOK_URL"
"""Names the daemon to ask, if it is not the one of this node's configuration."""

PATH = "/v1/runs"
TIMEOUT_S = 2.0
MAX_BYTES = 16 * 1024 * 1024

COUNTER, INTEGRATED, IN_PROCESS = "counter", "integrated", "in_process"

_MEASURED = (COUNTER, INTEGRATED, IN_PROCESS)
_WORDS = {
    COUNTER: "measured by the energy counter",
    INTEGRATED: "integrated from measured power",
    "apportioned": "apportioned among those who shared it",
    "modelled": "modelled, not measured",
    IN_PROCESS: "measured in this process, for its GPUs as a whole",
}

_UJ_PER_KWH, _NS_PER_HOUR, _NANO, _UG_PER_G = 3.6e12, 3.6e12, 1e9, 1e6


class RunFigures(msgspec.Struct, frozen=True):
    """What was booked to a run; every number adds up.

    Attributes:
        name: The id of its workload.
        owner: Its account, else its user.
        gpu_ns: GPU time that it held.
        known_ns: The part of it for which the energy is known; `None`: that is not known.
        methods: Energy (uJ) by how it is known.
        cost_nano: Money by currency, in billionths.
        co2e_ug: `None`: no carbon intensity is known.
        nodes: Where it was booked.
        node_count: Nodes that it ran on, as far as known.

    """

    name: str = ""
    owner: str = ""
    energy_uj: int = 0
    idle_uj: int = 0
    gpu_ns: int = 0
    known_ns: int | None = None
    methods: dict[str, int] = {}
    cost_nano: dict[str, int] = {}
    idle_cost_nano: dict[str, int] = {}
    co2e_ug: int | None = None
    nodes: tuple[str, ...] = ()
    node_count: int = 0
    ended_utc_s: float | None = None

    @property
    def energy_kwh(self) -> float:
        """Return its energy, idle energy included."""
        return self.energy_uj / _UJ_PER_KWH

    @property
    def idle_kwh(self) -> float:
        """Return the part of it for GPUs that it held and did not use."""
        return self.idle_uj / _UJ_PER_KWH

    @property
    def cost(self) -> dict[str, float]:
        """Return what it cost by currency, electricity and hardware; empty: no price is known."""
        return {currency: nano / _NANO for currency, nano in self.cost_nano.items()}

    @property
    def idle_cost(self) -> dict[str, float]:
        """Return the part of the cost for GPUs that it held and did not use."""
        return {currency: nano / _NANO for currency, nano in self.idle_cost_nano.items()}

    @property
    def co2e_g(self) -> float | None:
        """Return its CO2e in grams; `None`: no carbon intensity is known."""
        return None if self.co2e_ug is None else self.co2e_ug / _UG_PER_G

    @property
    def known(self) -> str:
        """Return how the energy is known, in words."""
        parts = sorted(self.methods.items(), key=lambda each: -each[1])
        whole = self.energy_uj
        said = ", ".join(
            f"{uj / whole:.0%} {_WORDS.get(name, name)}" if whole else _WORDS.get(name, name)
            for name, uj in parts
            if uj or not whole
        )
        if self.node_count > len(self.nodes):
            said += f"; {len(self.nodes)} of {self.node_count} nodes"
        return said or "nothing was measured"

    def plus(self, other: RunFigures) -> RunFigures:
        """Return the sum, such as over windows, ranks and nodes."""
        return _combined(self, other, 1)

    def minus(self, before: RunFigures) -> RunFigures:
        """Return what came since."""
        return _combined(self, before, -1)

    def as_dict(self) -> dict[str, float]:
        """Return plain numbers by name, without what is not known."""
        made = {
            "energy_kwh": self.energy_kwh,
            "energy_idle_kwh": self.idle_kwh,
            "gpu_hours": self.gpu_ns / _NS_PER_HOUR,
        }
        if self.energy_uj and self.methods:
            measured_uj = sum(self.methods.get(name, 0) for name in _MEASURED)
            made["energy_measured_ratio"] = measured_uj / self.energy_uj
        if self.gpu_ns and self.known_ns is not None:
            made["energy_coverage_ratio"] = min(self.known_ns / self.gpu_ns, 1.0)
        if self.co2e_g is not None:
            made["co2e_g"] = self.co2e_g
        for currency, amount in sorted(self.cost.items()):
            made[f"cost_{re.sub('[^a-z]', '', currency.lower())}"] = amount
        if self.node_count > len(self.nodes):
            made["energy_nodes_ratio"] = len(self.nodes) / self.node_count
        return made

    def __str__(self) -> str:
        """Return one line for people."""
        energy, idle = _kwh(self.energy_uj), _kwh(self.idle_uj)
        cost = [f"{amount:.4g} {currency}" for currency, amount in sorted(self.cost.items())]
        co2e = [] if self.co2e_g is None else [f"{self.co2e_g:.4g} g CO2e"]
        return f"{', '.join([f'{energy} ({idle} idle)', *cost, *co2e])}; {self.known}"


def _kwh(uj: int) -> str:
    return f"{uj / _UJ_PER_KWH:.4g} kWh" if uj >= _UJ_PER_KWH else f"{uj / 3.6e9:.4g} Wh"


def _combined(one: RunFigures, other: RunFigures, sign: int) -> RunFigures:
    """Return a sum or difference. CO2e that is unknown of any energy is unknown of the whole."""

    def both(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
        return {name: a.get(name, 0) + sign * b.get(name, 0) for name in {**a, **b}}

    unknown = any(each.co2e_ug is None and each.energy_uj for each in (one, other))
    nodes = tuple(sorted({*one.nodes, *other.nodes}))
    return msgspec.structs.replace(
        one,
        energy_uj=one.energy_uj + sign * other.energy_uj,
        idle_uj=one.idle_uj + sign * other.idle_uj,
        gpu_ns=one.gpu_ns + sign * other.gpu_ns,
        known_ns=(
            None
            if one.known_ns is None or other.known_ns is None
            else one.known_ns + sign * other.known_ns
        ),
        methods=both(one.methods, other.methods),
        cost_nano=both(one.cost_nano, other.cost_nano),
        idle_cost_nano=both(one.idle_cost_nano, other.idle_cost_nano),
        co2e_ug=None if unknown else (one.co2e_ug or 0) + sign * (other.co2e_ug or 0),
        nodes=nodes,
        node_count=max(one.node_count, other.node_count),
    )


def total(every: Iterable[RunFigures]) -> RunFigures:
    """Return the sum of at least one."""
    first, *others = every
    for each in others:
        first = first.plus(each)
    return first


class NodeRuns(msgspec.Struct, frozen=True):
    """The answer of a node: the runs asked for, and up to when all of their energy is booked."""

    node: str
    booked_to_utc_s: float
    runs: tuple[RunFigures, ...] = ()


_ANSWER = msgspec.json.Decoder(NodeRuns)


def ask(query: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> NodeRuns:
    """Ask the daemon for the runs of a `job` or `experiment`. Raises `SourceError`.

    The daemon is this node's, or that of JOULEBOOK_URL (`https://user@node:9816`, with the password
    in JOULEBOOK_PASSWORD), without any proxy.
    """
    body = fetch(PATH, query, timeout_s=timeout_s)
    try:
        return _ANSWER.decode(body)
    except msgspec.DecodeError as error:
        raise SourceError(f"what answers {PATH} is no daemon of Joulebook: {error}") from None


def fetch(
    path: str,
    query: Mapping[str, str] | None = None,
    *,
    base: str = "",
    authorization: str = "",
    timeout_s: float = TIMEOUT_S,
    post: bool = False,
) -> bytes:
    """Return what a server answers, the daemon without `base`. Raises `SourceError`."""
    import http.client  # noqa: PLC0415 - imported where there is something to ask
    import ssl  # noqa: PLC0415
    from urllib.parse import urlencode, urlsplit  # noqa: PLC0415

    base = base or os.environ.get(URL, "")
    shown = base.rpartition("@")[2] or "the address in server.listen"
    headers = {"Accept": "application/json", "Connection": "close"}
    try:
        if base:
            parts = urlsplit(base if "://" in base else f"http://{base}")
            host, tls = parts.hostname or "", parts.scheme == "https"
            if not host or parts.scheme not in {"http", "https"}:
                raise ValueError("expected http(s)://host:port")
            port, path = parts.port or (443 if tls else 80), parts.path.rstrip("/") + path
            if parts.username and not authorization:
                authorization = _basic(parts.username, parts.password)
        else:
            host, port, tls = daemon_address.listening()
            shown = f"{host}:{port}"
        if authorization:
            headers["Authorization"] = authorization
        client = http.client.HTTPConnection(host, port, timeout=timeout_s)
        if tls:
            context = ssl.create_default_context()
            if not base:
                # On loopback nothing secret is sent, and the certificate is for another name.
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        asked = urlencode({name: text for name, text in (query or {}).items() if text})
        try:
            target = f"{path}?{asked}" if asked else path
            client.request("POST" if post else "GET", target, headers=headers)
            answer = client.getresponse()
            body = answer.read(MAX_BYTES)
        finally:
            client.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = f"{error}" or type(error).__name__
        raise SourceError(f"nothing answers at {shown}: {why}") from None
    if answer.status != 200:
        said = " ".join(body.decode(errors="replace").split())[:200]
        raise SourceError(f"{shown} answered {answer.status} to {path}: {said}")
    return body


def _basic(user: str, password: str | None) -> str:
    import base64  # noqa: PLC0415

    pair = f"{user}:{password or os.environ.get('JOULEBOOK_PASSWORD', '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
