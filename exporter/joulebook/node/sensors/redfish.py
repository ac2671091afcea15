"""Power of the whole node from its BMC by Redfish, over HTTPS.

    /redfish/v1/Chassis/{id}/EnvironmentMetrics   PowerWatts.Reading, EnergykWh.Reading
    /redfish/v1/Chassis/{id}/Power                PowerControl[0].PowerConsumedWatts (older)

as in DMTF's DSP0268. Only the power is used: the energy counter has steps of 1 kWh on many.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joulebook.core.energy.readings import Component, Meter
from joulebook.errors import (
    ConfigError,
    HttpFailure,
    SensorDenied,
    SensorError,
    SensorMissing,
    SensorRetry,
)
from joulebook.http_client import Web, basic, trusting
from joulebook.node.sensors.ipmi import BmcSensor
from joulebook.units import MW_PER_W
from joulebook.untrusted_files import read_secret, shown_path

METER = Meter(Component.OTHER, "redfish")

_CA = "sensors.redfish.ca_file must contain the CA certificate of the BMC"
_MOST_BYTES = 1 << 20
_MOST_MEMBERS = 64
_MOST_W = 200_000.0


@dataclass(eq=False, kw_only=True)
class RedfishSensor(BmcSensor):
    """The power that the BMC at `url` tells of this machine.

    `chassis` is the id of the chassis (empty: the only one that reports power). `credentials` is a
    file of two lines, user and password, re-read at each `open`; `ca_file` has the CA certificate
    of the BMC's.
    """

    name = "redfish"
    meter = METER

    url: str
    credentials: Path | None = None
    ca_file: Path | None = None
    chassis: str = ""
    _web: Web | None = field(default=None, init=False)
    _headers: dict[str, str] = field(default_factory=dict, init=False)
    _resource: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")

    def open(self) -> None:
        """Find where power is reported. Raises `SensorError`."""
        self._headers = {"Accept": "application/json", **self._authorization()}
        try:
            tls = trusting(self.ca_file, "sensors.redfish.ca_file")
        except ConfigError as error:
            raise SensorError(str(error), reason="tls", remedy=_CA) from None
        self._web = Web(
            timeout_s=self.timeout_s,
            deadline_s=2 * self.timeout_s,
            max_bytes=_MOST_BYTES,
            tls=tls,
            proxied=False,
            hosts=1,
        )
        self._resource = self._find()

    def close(self) -> None:
        """End the connection."""
        web, self._web = self._web, None
        if web is not None:
            web.close()

    def _power_mw(self) -> int:
        power_w = _power_w(self._get(self._resource))
        if power_w is None:
            raise SensorRetry(f"{self._resource} reports no power now", reason="unreadable")
        return round(power_w * MW_PER_W)

    def _find(self) -> str:
        """The resource that tells the power of the node."""
        if self.chassis:
            chassis = [f"/redfish/v1/Chassis/{self.chassis}"]
        else:
            members = self._get("/redfish/v1/Chassis").get("Members")
            chassis = [
                member["@odata.id"]
                for member in (members if isinstance(members, list) else [])[:_MOST_MEMBERS]
                if isinstance(member, dict) and isinstance(member.get("@odata.id"), str)
            ]
        found = []
        for each in chassis:
            for name in ("EnvironmentMetrics", "Power"):
                try:
                    reported = _power_w(self._get(f"{each}/{name}"))
                except SensorMissing:
                    continue
                if reported is not None:
                    found.append(f"{each}/{name}")
                    break
        if not found:
            raise SensorMissing(
                f"no chassis of {self.url} reports power",
                reason="missing",
                remedy="Set sensors.redfish.chassis, or turn on power metering in the BMC",
            )
        if len(found) > 1:
            names = ", ".join(each.split("/")[4] for each in found)
            raise SensorError(
                f"several chassis of {self.url} report power: {names}",
                reason="ambiguous",
                remedy="Set sensors.redfish.chassis to the one that is the whole node",
            )
        return found[0]

    def _authorization(self) -> Mapping[str, str]:
        if self.credentials is None:
            return {}
        remedy = "sensors.redfish.credentials must be a file with two lines, user and password"
        try:
            lines = read_secret(self.credentials).decode("utf-8", "replace").splitlines()
        except OSError as error:
            raise SensorDenied(
                f"{shown_path(self.credentials)} cannot be read: {error.strerror}",
                reason="denied",
                remedy=remedy,
            ) from None
        if len(lines) < 2 or not lines[0] or ":" in lines[0]:
            raise SensorError(
                f"{self.credentials} does not contain a user and a password",
                reason="denied",
                remedy=remedy,
            )
        return basic(f"{lines[0]}:{lines[1]}")

    def _get(self, path: str) -> dict[str, Any]:
        if self._web is None:
            raise SensorRetry("the connection is not open", reason="uninitialized")
        try:
            status, body = self._web.ask(self.url + path, headers=self._headers)
        except HttpFailure as error:
            if error.reason in {"certificate", "tls"}:
                raise SensorError(f"{self.url}: {error}", reason="tls", remedy=_CA) from None
            if error.reason == "timeout":
                raise SensorRetry(
                    f"{self.url} took more than {self.timeout_s:g} s", reason="timeout"
                ) from None
            told = error.reason in {"too_large", "truncated", "packed"}
            reason = "unreadable" if told else "unreachable"
            raise SensorRetry(f"{self.url}: {error}", reason=reason) from None
        if status in {401, 403}:
            raise SensorDenied(
                f"{self.url}{path}: status {status}",
                reason="denied",
                remedy="Check the user and password in sensors.redfish.credentials",
            )
        if status == 404:
            raise SensorMissing(f"{self.url}{path} does not exist", reason="missing")
        if status != 200:
            raise SensorRetry(f"{self.url}{path}: status {status}", reason="unreadable")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise SensorRetry(f"{self.url}{path} is not a JSON object", reason="unreadable")
        return found


def _power_w(resource: Mapping[str, Any]) -> float | None:
    """Return the power of a resource; `None` if it reports none that is plausible."""
    reported: Any = None
    if isinstance(metrics := resource.get("PowerWatts"), dict):
        reported = metrics.get("Reading")
    elif isinstance(control := resource.get("PowerControl"), list) and control:
        reported = control[0].get("PowerConsumedWatts") if isinstance(control[0], dict) else None
    if (
        isinstance(reported, bool)
        or not isinstance(reported, int | float)
        or not math.isfinite(reported)
    ):
        return None
    return float(reported) if 0 < reported < _MOST_W else None
