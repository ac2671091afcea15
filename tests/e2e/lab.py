"""A whole lab on one machine: fake cards, real SLURM, the daemon, a real Prometheus.

What the cards really consumed is the scenario's, exact to the microjoule; when a job held a card is
what SLURM's own hooks saw, copied aside by wrappers before the daemon can touch it.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
from tests.fakes.nvml.build import build, build_power
from tests.fakes.nvml.scenario import Gpu, Scenario
from tests.integration.slurm_cluster import SlurmCluster
from tests.ports import free_port

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "exporter/joulebook/hooks"
BUILD = ROOT / ".build/fakes"

IDLE_WATTS = "joulebook_meter_idle_watts"

MINORS = (2, 0, 3, 1)
"""Minor number of each card in NVML's order: scrambled, as on real boards."""

GRES_ORDER = (3, 1, 0, 2)
"""Minor number of each gres.conf position: scrambled otherwise."""


def get(url: str, timeout_s: float = 10) -> tuple[int, str]:
    """Status and body of a page."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def until(what: str, done: Callable[[], T], timeout_s: float = 30) -> T:
    """Poll until `done()` is true; what it gave."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if result := done():
                return result
        except OSError:  # not yet listening
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


@dataclass
class Daemon:
    """`joulebook run` as a process of its own, on the scenario's cards."""

    directory: Path
    scenario: Scenario
    events_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    slurm_conf: Path | None = None
    node_name: str = ""
    arguments: Sequence[str] = ()
    before: Sequence[str] = ()
    """What it is started by, as its only child."""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger.db"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What the daemon and the other commands need to find cards, ledger and events."""
        env = {
            **os.environ,
            **self.scenario.env(build(BUILD)),
            "PYTHONPATH": str(ROOT / "exporter"),
            "JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{self.port}",
            "JOULEBOOK_LEDGER_PATH": str(self.ledger),
            "JOULEBOOK_SENSORS_NVML_ENABLED": "true",
            # What this machine has of its own is no part of a lab.
            "JOULEBOOK_SENSORS_RAPL_ENABLED": "false",
            "JOULEBOOK_SENSORS_HWMON_ENABLED": "false",
            "JOULEBOOK_SENSORS_DRM_ENABLED": "false",
            "JOULEBOOK_TENANTS_SLURM_ENABLED": "true",
            "JOULEBOOK_TENANTS_SLURM_EVENTS_DIR": str(self.events_dir),
            "JOULEBOOK_EXPOSITION_SCRAPE_INTERVAL_S": "1",
            # Tests wait for joules: booked at each tick, but where a test is about the beat.
            "JOULEBOOK_DAEMON_COMMIT_S": "1",
        }
        if self.slurm_conf:
            env["JOULEBOOK_TENANTS_SLURM_SLURM_CONF"] = str(self.slurm_conf)
            env["JOULEBOOK_TENANTS_SLURM_NODE_NAME"] = self.node_name
            env["SLURM_CONF"] = str(self.slurm_conf)
        return {**env, **self.settings}

    def start(self) -> Daemon:
        """Start, and wait until it is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.before, sys.executable, "-m", "joulebook", "run", *self.arguments],
                env=self.environment(),
                stdout=log,
                stderr=log,
            )
        try:
            until("the daemon to be ready", lambda: get(f"{self.url}/readyz")[0] == 200)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.log()}") from None
        return self

    def log(self) -> str:
        return (self.directory / "daemon.log").read_text()

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        assert self.process
        if self.process.poll() is None:
            started = psutil.Process(self.process.pid)
            children = started.children() if self.before else []
            for process in children or [started]:
                process.terminate()
        return self.process.wait(20)

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.stop()

    def learn_idle(self) -> None:
        """Wait until the idle floor of every card is known, for which all of them have to idle."""
        cards = len(self.scenario.uuids)
        until(
            "the idle floors",
            lambda: sum(name == IDLE_WATTS for name, _ in self.metrics()) >= cards,
            60,
        )

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of /metrics."""
        from prometheus_client.parser import text_string_to_metric_families

        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(get(f"{self.url}/metrics")[1])
            for sample in family.samples
        }

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the ledger, read beside the daemon."""
        ledger = sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)
        try:
            return ledger.execute(query, values).fetchall()
        finally:
            ledger.close()


@dataclass(frozen=True)
class Held:
    """When a job held which card (slot of the scenario), as its hooks saw it."""

    job_id: str
    node: str
    gpu: int
    t0_ns: int
    t1_ns: int


class Lab:
    """Nodes with cards and SLURM; `held()` tells which job held which card from when to when.

    Each node has cards, event directory and daemon of its own, and all nodes run on this machine.
    """

    def __init__(
        self, directory: Path, *, nodes: int = 1, shards: int = 0, accounting: bool = False
    ) -> None:
        directory.chmod(0o755)
        self.directory = directory
        self.minors = MINORS
        (directory / "seen").mkdir()
        self.power = build_power(BUILD)
        slurm_dir = directory / "slurm"
        slurm_dir.mkdir()
        self.slurm = SlurmCluster(
            slurm_dir,
            nodes=nodes,
            gpus_per_node=len(MINORS),
            shards=shards,
            accounting=accounting,
            prolog=self._wrapper("prolog"),
            epilog=self._wrapper("epilog"),
            device_order=GRES_ORDER,
            cpus_per_node=64,
        )
        self.scenarios = {
            node: Scenario.create(
                directory / f"scenario.{node}",
                [
                    # Node n has the n-th four of the machine's device files.
                    Gpu(
                        minor=minor + len(MINORS) * n,
                        uuid=f"GPU-{n}{slot}",
                        tick_phase_ns=slot * 23_000_000,
                    )
                    for slot, minor in enumerate(MINORS)
                ],
            )
            for n, node in enumerate(self.slurm.nodes)
        }
        self.scenario = self.scenarios[self.slurm.nodes[0]]
        self.burn = self._burner()

    def _wrapper(self, hook: str) -> Path:
        """The product's hook, and a note of when it was called: the truth of who held what."""
        path = self.directory / f"{hook}.sh"
        path.write_text(
            "#!/bin/sh\n"
            "now=$(/bin/date +%s%N)\n"
            f"JOULEBOOK_EVENTS_DIR={self.directory}/events.$SLURMD_NODENAME {HOOKS}/{hook}.sh\n"
            f'echo "$SLURM_JOB_ID $SLURMD_NODENAME $now ${{SLURM_JOB_GPUS:--}}"'
            f" >>{self.directory}/seen/{hook}\n"
            "exit 0\n"
        )
        path.chmod(0o755)
        return path

    def _burner(self) -> Path:
        """`burn WATTS MS [SM%]`: what a job runs to make the cards it was given burn.

        Which cards these are is read from the Prolog's note, since the environment of a job is
        wrong about it on all but its first node.
        """
        slots = " ".join(str(MINORS.index(minor)) for minor in GRES_ORDER)
        numbers = " ".join(f"[{node}]={n}" for n, node in enumerate(self.slurm.nodes))
        path = self.directory / "burn"
        path.write_text(
            "#!/bin/bash\n"
            f"slots=({slots}); declare -A number=({numbers})\n"
            f'gpus=$(awk -v j="$SLURM_JOB_ID" -v n="$SLURMD_NODENAME" '
            f"'$1 == j && $2 == n {{print $4}}' {self.directory}/seen/prolog | tail -n 1)\n"
            "for position in ${gpus//,/ }; do\n"
            f'  {self.power} {self.directory}/scenario."$SLURMD_NODENAME" '
            '"GPU-${number[$SLURMD_NODENAME]}${slots[$position]}" +"$1"000 '
            '--burn "$2" --sm "${3:-90}" >/dev/null &\n'
            "done\n"
            "wait\n"
        )
        path.chmod(0o755)
        return path

    def daemon(self, directory: Path, node: int = 0, **settings: str) -> Daemon:
        """The daemon of a node, with its ledger in `directory` (not started)."""
        name = self.slurm.nodes[node]
        return Daemon(
            directory,
            self.scenarios[name],
            self.directory / f"events.{name}",
            {"JOULEBOOK_NODE_NAME": name, **settings},
            slurm_conf=self.slurm.directory / "slurm.conf",
            node_name=name,
        )

    def held(self) -> list[Held]:
        """Who held which card when, in the scenario's time, from what the hooks noted."""
        offset_ns = time.time_ns() - self.scenario.now_ns()
        ends: dict[tuple[str, str], list[int]] = {}
        for job, node, at, _ in self._noted("epilog"):
            ends.setdefault((job, node), []).append(int(at) - offset_ns)
        held = []
        for job, node, at, positions in self._noted("prolog"):
            if not ends.get((job, node)):
                continue
            end_ns = ends[job, node].pop(0)  # a requeued job has several
            for gpu in _slots(positions):
                held.append(Held(job, node, gpu, int(at) - offset_ns, end_ns))
        return held

    def slots(self, job_id: str) -> list[int]:
        """The cards that a job was given, as soon as its Prolog has run."""
        return [
            gpu for job, _, _, given in self._noted("prolog") if job == job_id
            for gpu in _slots(given)
        ]  # fmt: skip

    def _noted(self, hook: str) -> list[list[str]]:
        path = self.directory / "seen" / hook
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def true_uj(self, held: Held) -> int:
        """What the card consumed while it was held."""
        return self.scenarios[held.node].true_energy_uj(held.gpu, held.t0_ns, held.t1_ns)


def _slots(positions: str) -> list[int]:
    """Slots of the scenario, by positions in gres.conf (`-`: none)."""
    if positions == "-":
        return []
    return [MINORS.index(GRES_ORDER[int(position)]) for position in positions.split(",")]


class Prometheus:
    """A real Prometheus that scrapes daemons every second."""

    def __init__(self, directory: Path, *target_ports: int) -> None:
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        (directory / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\n"
            "scrape_configs:\n"
            "- job_name: joulebook\n"
            "  honor_labels: true\n"
            f"  static_configs: [{{targets: {[f'127.0.0.1:{p}' for p in target_ports]}}}]\n"
        )
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> Prometheus:
        until("Prometheus", lambda: get(f"http://127.0.0.1:{self.port}/-/ready")[0] == 200)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression."""
        text = urllib.parse.urlencode({"query": expression})
        status, body = get(f"http://127.0.0.1:{self.port}/api/v1/query?{text}", 30)
        answer = json.loads(body)
        if status != 200 or answer["status"] != "success":
            raise AssertionError(f"{expression}: {body}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, expression: str) -> float:
        """The one value of an expression (0 if there is no series)."""
        rows = self.query(expression)
        assert len(rows) <= 1, rows
        return float(rows[0]["value"][1]) if rows else 0.0
