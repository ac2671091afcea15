"""Power of the whole node by ipmitool and Redfish: slow, watched over, and with a remedy."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.unit.node.sensors.still_clock import StillClock

from joulebook.core.energy.readings import Component, Meter
from joulebook.errors import SensorDenied, SensorError, SensorMissing, SensorRetry
from joulebook.node.sensors.ipmi import IpmiSensor, parse
from joulebook.node.sensors.redfish import RedfishSensor
from joulebook.units import NS_PER_S

PRINTED = """
    Instantaneous power reading:                   {watts} Watts
    Minimum during sampling period:                  3 Watts
    Maximum during sampling period:               1532 Watts
    Average power reading over sample period:      900 Watts
    IPMI timestamp:                           Tue Nov 24 15:00:00 2026
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   {state}
"""


def tool(directory: Path, script: str) -> str:
    """A stand-in for ipmitool, where the BMC would be."""
    path = directory / "ipmitool"
    path.write_text(f'#!/bin/sh\n[ "$*" = "dcmi power reading" ] || exit 9\n{script}\n')
    path.chmod(0o755)
    return str(path)


def printed(watts: int = 812, state: str = "activated") -> str:
    return f"cat <<'X'\n{PRINTED.format(watts=watts, state=state)}X"


def test_ipmitool_is_asked_for_the_power_of_the_node(tmp_path: Path) -> None:
    sensor = IpmiSensor(StillClock(), program=tool(tmp_path, printed()), every_s=7)
    sensor.open()
    (reading,) = sensor.poll(processes=False).readings
    assert (reading.meter, reading.power_mw) == (Meter(Component.OTHER, "ipmi"), 812_000)
    assert reading.covers == (Component.CPU, Component.DRAM, Component.GPU)
    assert reading.hole_ns == (3 * 7 + 10) * 10**9
    assert sensor.pace.least_s == 7, "no tick waits for it, and it is not asked in each"
    assert sensor.poll_energy([reading.meter]) == ()


def test_a_slow_bmc_spoke_some_time_between_question_and_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instants = iter([10 * NS_PER_S, 14 * NS_PER_S])
    monkeypatch.setattr(StillClock, "now_ns", lambda _: next(instants))
    (reading,) = (
        IpmiSensor(StillClock(), program=tool(tmp_path, printed())).poll(processes=False).readings
    )
    assert reading.t_ns == 12 * NS_PER_S


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (printed(state="deactivated"), "inactive"),
        (printed(watts=0), "unreadable"),
        ("echo nonsense", "unreadable"),
        ("echo 'Could not open device at /dev/ipmi0' >&2; exit 1", "unreadable"),
        ("exec sleep 60", "timeout"),
    ],
)
def test_a_bmc_that_does_not_tell_is_an_error_with_a_remedy(
    tmp_path: Path, script: str, reason: str
) -> None:
    sensor = IpmiSensor(
        StillClock(), program=tool(tmp_path, script), timeout_s=0.3 if reason == "timeout" else 20
    )
    with pytest.raises(SensorRetry) as failed:
        sensor.poll(processes=False)
    assert failed.value.reason == reason and failed.value.remedy


def test_without_ipmitool(tmp_path: Path) -> None:
    with pytest.raises(SensorMissing, match="does not exist") as missing:
        IpmiSensor(StillClock(), program=str(tmp_path / "none")).poll(processes=False)
    assert "Install ipmitool" in missing.value.remedy
    (tmp_path / "none").write_text("")
    with pytest.raises(SensorDenied):
        IpmiSensor(StillClock(), program=str(tmp_path / "none")).poll(processes=False)


def test_only_whole_lines_count() -> None:
    assert parse("Instantaneous power reading:   55 Watts\n") == 55_000
    with pytest.raises(SensorRetry):
        parse("x Instantaneous power reading: 55 Watts")


# ---- Redfish


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def certificate() -> trustme.LeafCert:
    return authority().issue_cert("127.0.0.1")


ENDLESS_BYTES = 64 << 20


class Bmc:
    """A BMC on loopback, with TLS: `resources` by path."""

    def __init__(self, directory: Path) -> None:
        self.resources: dict[str, Any] = {}
        self.status: dict[str, int] = {}
        self.asked: list[tuple[str, str]] = []
        self.endless: set[str] = set()
        self.poured = 0
        self.delay = threading.Event()
        self.delay.set()
        self.ca_file = directory / "ca.pem"
        authority().cert_pem.write_to_path(str(self.ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate().configure_cert(context)
        bmc = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                bmc.delay.wait(10)
                bmc.asked.append((self.path, self.headers.get("Authorization", "")))
                if self.path in bmc.endless:
                    self.pour()
                    return
                found = bmc.resources.get(self.path)
                self.send_response(bmc.status.get(self.path, 404 if found is None else 200))
                body = found if isinstance(found, bytes) else json.dumps(found or {}).encode()
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", "https://127.0.0.1:1/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def pour(self) -> None:
                self.send_response(200)
                self.end_headers()
                while bmc.poured < ENDLESS_BYTES:
                    try:
                        bmc.poured += self.wfile.write(b" " * (1 << 20))
                    except OSError:
                        break
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def chassis(self, *names: str) -> None:
        self.resources["/redfish/v1/Chassis"] = {
            "Members": [{"@odata.id": f"/redfish/v1/Chassis/{name}"} for name in names]
        }

    def sensor(self, tmp_path: Path, **settings: object) -> RedfishSensor:
        secret = tmp_path / "bmc"
        secret.write_text("monitor\nswordfish\n")
        options: dict[str, Any] = {"credentials": secret, "ca_file": self.ca_file, "timeout_s": 5.0}
        return RedfishSensor(StillClock(), url=self.url + "/", **{**options, **settings})


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[Bmc]:
    bmc = Bmc(tmp_path)
    yield bmc
    bmc.delay.set()
    bmc.server.shutdown()
    bmc.server.server_close()
    bmc.thread.join(10)


def power_of(sensor: RedfishSensor) -> int | None:
    sensor.open()
    try:
        (reading,) = sensor.poll(processes=False).readings
        return reading.power_mw
    finally:
        sensor.close()


def test_the_chassis_that_tells_power_is_found(bmc: Bmc, tmp_path: Path) -> None:
    bmc.chassis("Backplane", "1")
    bmc.resources["/redfish/v1/Chassis/1/EnvironmentMetrics"] = {"PowerWatts": {"Reading": 1234.5}}
    assert power_of(bmc.sensor(tmp_path)) == 1_234_500
    assert {who for _, who in bmc.asked} == {"Basic bW9uaXRvcjpzd29yZGZpc2g="}


def test_an_older_bmc_tells_it_elsewhere(bmc: Bmc, tmp_path: Path) -> None:
    bmc.resources["/redfish/v1/Chassis/Self/Power"] = {
        "PowerControl": [{"PowerConsumedWatts": 700}]
    }
    assert power_of(bmc.sensor(tmp_path, chassis="Self")) == 700_000


def test_several_chassis_with_power_must_be_chosen_from(bmc: Bmc, tmp_path: Path) -> None:
    bmc.chassis("node", "gpus")
    for name in ("node", "gpus"):
        bmc.resources[f"/redfish/v1/Chassis/{name}/Power"] = {
            "PowerControl": [{"PowerConsumedWatts": 700}]
        }
    with pytest.raises(SensorError, match="node, gpus") as several:
        bmc.sensor(tmp_path).open()
    assert "sensors.redfish.chassis" in several.value.remedy


@pytest.mark.parametrize(
    "reported",
    [{}, {"PowerWatts": {"Reading": None}}, {"PowerWatts": {"Reading": -5}}, {"PowerWatts": 5},
     {"PowerWatts": {"Reading": True}}, {"PowerWatts": {"Reading": 1e12}}, {"PowerControl": ["x"]}],
)  # fmt: skip
def test_what_is_no_power_is_not_taken_for_it(bmc: Bmc, tmp_path: Path, reported: object) -> None:
    bmc.chassis("1")
    bmc.resources["/redfish/v1/Chassis/1/EnvironmentMetrics"] = reported
    with pytest.raises(SensorMissing, match="no chassis"):
        bmc.sensor(tmp_path).open()


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (401, SensorDenied, "denied"),
        (503, SensorRetry, "unreadable"),
        (302, SensorRetry, "unreadable"),
    ],
)
def test_a_bmc_that_refuses(
    bmc: Bmc, tmp_path: Path, status: int, kind: type[SensorError], reason: str
) -> None:
    bmc.resources["/redfish/v1/Chassis/1/Power"] = {"PowerControl": [{"PowerConsumedWatts": 7}]}
    sensor = bmc.sensor(tmp_path, chassis="1")
    sensor.open()
    bmc.status["/redfish/v1/Chassis/1/Power"] = status
    with pytest.raises(kind) as refused:
        sensor.poll(processes=False)
    assert refused.value.reason == reason
    assert "swordfish" not in str(refused.value)
    sensor.close()


def test_nonsense_and_floods_are_refused(bmc: Bmc, tmp_path: Path) -> None:
    for body in (b"<html>", b"[1]", b" " * (2 << 20)):
        bmc.resources["/redfish/v1/Chassis/1/EnvironmentMetrics"] = body
        with pytest.raises(SensorRetry):
            bmc.sensor(tmp_path, chassis="1").open()


def test_an_answer_without_end_is_not_read_to_its_end(bmc: Bmc, tmp_path: Path) -> None:
    bmc.endless.add("/redfish/v1/Chassis/1/EnvironmentMetrics")
    with pytest.raises(SensorError):
        bmc.sensor(tmp_path, chassis="1").open()
    assert bmc.poured < ENDLESS_BYTES // 2


def test_a_bmc_that_hangs_is_given_up(bmc: Bmc, tmp_path: Path) -> None:
    bmc.delay.clear()
    with pytest.raises(SensorRetry) as slow:
        bmc.sensor(tmp_path, chassis="1", timeout_s=0.2).open()
    assert slow.value.reason == "timeout"


def test_a_certificate_that_nobody_vouches_for_is_refused(bmc: Bmc, tmp_path: Path) -> None:
    with pytest.raises(SensorError) as refused:
        bmc.sensor(tmp_path, ca_file=None).open()
    assert refused.value.reason == "tls" and "ca_file" in refused.value.remedy
    assert bmc.asked == [], "the password was not sent"


@pytest.mark.parametrize("secret", ["", "user\n", "us:er\npassword\n"])
def test_credentials_that_are_none(bmc: Bmc, tmp_path: Path, secret: str) -> None:
    file = tmp_path / "other"
    file.write_text(secret)
    with pytest.raises(SensorError, match="user and a password"):
        bmc.sensor(tmp_path, credentials=file).open()
    with pytest.raises(SensorDenied):
        bmc.sensor(tmp_path, credentials=tmp_path / "absent").open()


def test_nobody_there(tmp_path: Path) -> None:
    sensor = RedfishSensor(StillClock(), url="https://127.0.0.1:1", chassis="1", timeout_s=1)
    with pytest.raises(SensorRetry) as gone:
        sensor.open()
    assert gone.value.reason == "unreachable"
