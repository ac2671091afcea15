"""The programs that are measured, side by side in one world: Joulebook and its peers from PyPI."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.machine import pin
from benchmarks.world import BUILD, World

PEERS_VENV = BUILD / "bench/venv"
PEERS = ("nvitop-exporter==1.7.2", "prometheus-client==0.26.0", "nvidia-ml-py==13.615.71")
JOULEBOOK, PRICED = "joulebook", "joulebook, with price and CO2e"
NVITOP, GAUGE = "nvitop-exporter", "power gauge, 30 lines"
READY_S = 60


@dataclass(frozen=True)
class Exporter:
    """One of them, running."""

    name: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        """Where its metrics are."""
        return f"http://127.0.0.1:{self.port}/metrics"

    def scrape(self) -> str:
        """The whole exposition."""
        with urllib.request.urlopen(self.url, timeout=10) as answer:
            text: str = answer.read().decode()
        return text


@contextmanager
def running(world: World, *, peers: bool = True, priced: bool = False) -> Iterator[list[Exporter]]:
    """Start them all, wait until each shows all that is to be seen, pin them to the last core.

    `priced`: a second daemon too, which charges money and CO2e.
    """
    with daemon(world, shows_all=False):
        pass  # byte code of all that it loads is there from now on
    with ExitStack() as exits:
        started = [exits.enter_context(daemon(world))]
        if priced:
            started.append(exits.enter_context(daemon(world, priced=True)))
        if peers and (python := peers_python()):
            environment = world.environment()
            gauge, nvitop = free_port(), free_port()
            script = str(Path(__file__).with_name("peer_gauge.py"))
            for name, port, command in (
                (GAUGE, gauge, [python, script, str(gauge)]),
                (NVITOP, nvitop, [python, "-m", "nvitop_exporter", "--port", str(nvitop)]),
            ):
                pid = exits.enter_context(_process(command, environment, world, name))
                started.append(Exporter(name, pid, port))
        for exporter in started:
            _until(f"{exporter.name} to answer", partial(_answers, exporter))
            pin(exporter.pid, last=True)
        yield started


@contextmanager
def daemon(
    world: World,
    *,
    wrapper: Sequence[str] = (),
    priced: bool = False,
    shows_all: bool = True,
    environment: Mapping[str, str] = {},
) -> Iterator[Exporter]:
    """The daemon alone, once it answers and (`shows_all`) shows every job.

    `wrapper` stands for `joulebook run` in `-m`; `environment` is added to the daemon's.
    """
    port = free_port()
    name = PRICED if priced else JOULEBOOK
    command = [sys.executable, "-m", *(wrapper or ("joulebook", "run"))]
    environment = {**world.daemon_environment(port, priced=priced), **environment}
    with _process(command, environment, world, name) as pid:
        exporter = Exporter(name, pid, port)
        _until("the daemon to answer", lambda: "joulebook_build_info" in exporter.scrape())
        if shows_all:
            _until("the daemon to show every job", lambda: _shows_all(exporter, world.workloads))
        yield exporter


def _answers(exporter: Exporter) -> bool:
    return "gpu" in exporter.scrape()


def _shows_all(exporter: Exporter, workloads: int) -> bool:
    text = exporter.scrape()
    held = text.count("\njoulebook_gpu_held_ratio{")
    energy = [
        line
        for line in text.splitlines()
        if line.startswith("joulebook_workload_energy_joules_total{") and not line.endswith(" 0")
    ]
    return "joulebook_gpu_info{" in text and held >= workloads and len(energy) >= workloads


@contextmanager
def _process(
    command: Sequence[str], environment: dict[str, str], world: World, name: str
) -> Iterator[int]:
    with (world.directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def peers_python() -> str:
    """The interpreter of an environment that has the peers, made on first use; empty without."""
    python = PEERS_VENV / "bin/python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(PEERS_VENV)], check=True)
        installed = PEERS_VENV / ".installed"
        if not installed.exists() or installed.read_text() != "\n".join(PEERS):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS], check=True)
            installed.write_text("\n".join(PEERS))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"without peers: {error}", file=sys.stderr)
        return ""
    return str(python)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


def _until(what: str, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            if done():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {READY_S} s: {what}")
        time.sleep(0.25)
