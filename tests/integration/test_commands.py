"""Commands as programs: on a real ledger, a real server, a real terminal and the fake driver."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import bcrypt
import pytest
import trustme
from tests.fakes.nvml.build import build
from tests.fakes.nvml.layout import Gpu
from tests.fakes.nvml.scenario import Scenario
from tests.unit.commands.ledger_sample import GPUS, HOSTILE, write_ledger
from tests.unit.metrics import sample

from joulebook.core.ledger.state import Books
from joulebook.ledger.location import LedgerLock
from joulebook.metrics.exposition import Exposition
from joulebook.node.sensors.trace.format import read_trace
from joulebook.server.server import Server

# Ctrl-C ends it, also where whatever this runs under was started in the background.
JOULEBOOK = ("env", "--default-signal=INT", sys.executable, "-m", "joulebook")
KWH_UJ = 3_600_000 * 1_000_000


class Sample:
    """A ledger on disk, and the books that it ends with."""

    def __init__(self, path: Path, books: Books) -> None:
        self.path, self.books = path, books


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    return Sample(path, write_ledger(path))


def run(
    *arguments: str, ledger: Path | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of joulebook, on a node without configuration of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("JOULEBOOK_")}
    own |= {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error"}
    if ledger is not None:
        own |= {"JOULEBOOK_LEDGER_PATH": str(ledger), "JOULEBOOK_LEDGER_ALLOW_VOLATILE": "true"}
    done = subprocess.run(
        [*JOULEBOOK, *arguments],
        env={**own, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
        encoding="utf-8",
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


# joulebook job


def test_the_statement_of_a_job(ledger: Sample) -> None:
    done = run("job", "101", ledger=ledger.path)
    assert done.returncode == 0, done.stderr
    fields = {line[2:14].strip(): line[14:] for line in done.stdout.splitlines() if line[:1] == " "}
    assert done.stdout.startswith("Job 101 on node ")
    assert fields["Experiment"] == "bert-base"
    assert fields["End"].endswith("UTC, after 10 min 00 s")
    assert fields["GPUs"] == f"1 NVIDIA A100 ({GPUS[0].name})"
    assert fields["GPU time"] == "0.1667 GPU-hours (600.0 GPU-seconds)"
    assert fields["Energy"] == "180,000.000000 J = 0.0500 kWh"
    assert fields["Mean power"] == "300 W per GPU while held"
    assert fields["Method"] == "100 % measured by the energy counter"
    assert fields["Evidence"] == "100 % SLURM's Prolog"


def test_a_job_that_runs_and_one_whose_end_nobody_saw(ledger: Sample) -> None:
    running = run("job", "102", ledger=ledger.path).stdout
    assert "(so far: running, or its end is being booked)" in running.splitlines()[0]
    assert "100 % (allocated but idle)" in running
    unseen = run("job", "600", ledger=ledger.path).stdout
    assert "End         not known" in unseen
    assert "Nothing was booked to it." in unseen


def test_an_array_is_listed_and_added_up(ledger: Sample) -> None:
    said = run("job", "200", ledger=ledger.path).stdout
    tasks = re.findall(r"^200_(\d+) ", said, re.MULTILINE)
    assert tasks == [str(task) for task in range(1, 12)]
    assert "Energy      82,500.000000 J" in said
    assert "100 % integrated from measured power" in said
    one = run("job", "200_7", ledger=ledger.path).stdout
    assert one.startswith("Job 200_7 on node")
    assert "7,500.000000 J" in one


def test_the_runs_of_a_requeued_job(ledger: Sample) -> None:
    both = run("job", "300", ledger=ledger.path).stdout
    assert "300.r1" in both and "36,000.000000 J" in both
    assert "18,000.000000 J" in run("job", "300.r1", ledger=ledger.path).stdout
    assert "18,000.000000 J" in run("job", "slurm/300", ledger=ledger.path).stdout


def test_json_is_exact_and_adds_up(ledger: Sample) -> None:
    done = run("job", "400", "--json", ledger=ledger.path)
    reported = json.loads(done.stdout)
    (job,) = reported["workloads"]
    assert job["energy_uj"] == reported["total"]["energy_uj"] == 33_000_000_000
    assert job["energy_kwh"] == pytest.approx(job["energy_uj"] / KWH_UJ)
    for part in ("meters", "methods", "evidence"):
        assert sum(each["energy_uj"] for each in job[part].values()) == job["energy_uj"]
    assert job["gpu_seconds"] == pytest.approx(90, abs=1e-6)
    assert set(job["methods"]) == {"apportioned", "integrated"}
    assert (job["running"], job["experiment"]) == (False, "bert-base")


def test_hostile_names_reach_no_terminal(ledger: Sample) -> None:
    said = run("job", "500", ledger=ledger.path).stdout
    assert "owned" in said and "\x1b" not in said and "\x07" not in said and "\u202e" not in said
    reported = json.loads(run("job", "500", "--json", ledger=ledger.path).stdout)
    assert reported["workloads"][0]["name"] == HOSTILE
    assert reported["workloads"][0]["account"] is None


def test_a_job_that_is_not_there(ledger: Sample) -> None:
    done = run("job", "103", ledger=ledger.path)
    assert done.returncode == 1
    assert f"job 103 is not in this node's ledger ({ledger.path})" in done.stderr
    assert re.search(r"\d+ jobs searched; most similar: 102, 101,", done.stderr)


def test_a_statement_in_a_narrow_terminal(ledger: Sample) -> None:
    for job in ("101", "200", "400"):
        done = run("job", job, ledger=ledger.path, environ={"COLUMNS": "60"})
        assert max(map(len, done.stdout.splitlines())) <= 60


# joulebook top


@contextlib.contextmanager
def serving(web_config: Path | None = None, port: int = 0) -> Iterator[Server]:
    """A real server that shows a small node."""
    fine = (True, "ready")
    pages = Exposition(
        sample.small_view(), lambda: fine, lambda: fine, on_error=lambda family, error: None
    )
    server = Server(f"127.0.0.1:{port}", pages, web_config)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_top_once() -> None:
    with serving() as server:
        listen = {"JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{server.port}"}
        done = run("top", "--once", environ=listen)
        piped = run("top", environ={**listen, "http_proxy": "http://127.0.0.1:1"})
    assert done.returncode == 0, done.stderr
    assert "101 ada" in done.stdout and "bert-base" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("balanced")
    assert "\x1b" not in done.stdout
    assert piped.stdout == done.stdout


def test_top_through_tls_and_a_password(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    digest = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    web = tmp_path / "web.yml"
    web.write_text(
        "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"
        f"basic_auth_users: {{ada: '{digest}'}}\n"
    )
    with serving(web) as server:
        node = {
            "JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{server.port}",
            "JOULEBOOK_SERVER_WEB_CONFIG": str(web),
        }
        password = {**node, "JOULEBOOK_PASSWORD": "secret"}
        ca = ("--ca", str(tmp_path / "ca.pem"))
        trusted = run("top", "--once", *ca, "--user", "ada", environ=password)
        blind = run("top", "--once", "--insecure", "--user", "ada", environ=password)
        stranger = run("top", "--once", environ=node)
        nobody = run("top", "--once", *ca, environ=node)
        wrong = run(
            "top", "--once", *ca, "--user", "ada", environ={**node, "JOULEBOOK_PASSWORD": "guess"}
        )
        plain = run("top", "--once", "--url", f"http://127.0.0.1:{server.port}", environ=node)
    assert trusted.returncode == 0, trusted.stderr
    assert blind.stdout == trusted.stdout
    assert stranger.returncode == 1 and "--ca FILE" in stranger.stderr
    assert nobody.returncode == 1 and "use --user NAME" in nobody.stderr
    assert wrong.returncode == 1 and "use --user NAME" in wrong.stderr
    assert plain.returncode == 1 and "https://" in plain.stderr


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *arguments: str, rows: int = 24, cols: int = 80) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", PYTHONIOENCODING="utf-8")
            os.environ.pop("NO_COLOR", None)
            os.execvp(JOULEBOOK[0], [*JOULEBOOK, *arguments])
        self.resize(rows, cols)
        self.seen = b""

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def read_until(self, wanted: bytes, timeout_s: float = 20) -> bytes:
        """All that was printed since the last time, up to `wanted`."""
        deadline = time.monotonic() + timeout_s
        while wanted not in self.seen:
            assert time.monotonic() < deadline, self.seen
            ready, _, _ = select.select([self.fd], [], [], 0.1)
            if ready:
                self.seen += self._read()
        before, found, self.seen = self.seen.partition(wanted)
        return before + found

    def end(self) -> tuple[int, bytes]:
        """The exit status, and the last words."""
        while True:
            chunk = self._read()
            if not chunk:
                break
            self.seen += chunk
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status), self.seen

    def _read(self) -> bytes:
        try:
            return os.read(self.fd, 65536)
        except OSError:  # Linux says EIO once the other end is closed.
            return b""


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_top_lives_in_a_terminal() -> None:
    with serving() as server:
        port = server.port
        top = Terminal("top", "--url", f"127.0.0.1:{port}", "--interval", "0.3")
        first = top.read_until(b"\x1b[J")
        assert first.startswith(b"\x1b[?1049h\x1b[?25l\x1b[H")
        assert b"101 ada" in first and b"balanced" in first
        top.resize(10, 60)
        top.read_until(b"more ", timeout_s=10)
    # The daemon is gone: the last figures stay, and the line above them says so.
    top.read_until(b"Showing old data")
    top.read_until(b"101 ada")
    with serving(port=port):
        frames = b"".join(top.read_until(b"\x1b[J") for _ in range(12))
        assert b"Showing old data" not in frames[frames.rindex(b"\x1b[H") :]
        os.write(top.fd, b"xq")
        status, last = top.end()
    assert status == 0
    assert last.endswith(b"\x1b[?25h\x1b[?1049l")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_top_gives_the_terminal_back(how: signal.Signals) -> None:
    with serving() as server:
        top = Terminal("top", "--url", f"127.0.0.1:{server.port}", "--interval", "60")
        top.read_until(b"\x1b[J")
        os.kill(top.pid, how)
        status, last = top.end()
    assert status == 0
    assert last.endswith(b"\x1b[?25h\x1b[?1049l")


# joulebook record and doctor on the fake driver


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.getbasetemp() / "fake-nvml")


@pytest.fixture
def driver(tmp_path: Path, library: Path) -> tuple[Scenario, dict[str, str]]:
    cards = [Gpu(minor=0), Gpu(minor=3, has_energy_counter=False)]
    scenario = Scenario.create(tmp_path / "scenario", cards)
    return scenario, scenario.env(library)


def test_record_and_replay(tmp_path: Path, driver: tuple[Scenario, dict[str, str]]) -> None:
    _, environ = driver
    path = tmp_path / "t.jsonl.gz"
    done = run("record", str(path), "--for", "1.5s", "--every", "0.05s", environ=environ)
    assert done.returncode == 0, done.stderr
    assert "lines of 2 GPUs" in done.stdout
    trace = read_trace(path)
    assert [len(records) > 20 for records in trace.records] == [True, True]
    # 50 W for one and a half seconds, less the first and last tick of the counter.
    again = run("replay", str(path))
    assert again.returncode == 0, again.stderr
    read = re.search(r"^Read +([\d.]+) J", again.stdout, re.MULTILINE)
    assert read is not None and float(read[1]) == pytest.approx(150, abs=20)
    assert run("record", str(path), environ=environ).returncode == 2
    assert len(read_trace(path).records[0]) == len(trace.records[0])


def test_record_ends_with_ctrl_c(tmp_path: Path, driver: tuple[Scenario, dict[str, str]]) -> None:
    path = tmp_path / "t.jsonl.gz"
    process = subprocess.Popen(
        [*JOULEBOOK, "record", str(path), "--for", "1h", "--every", "0.02s"],
        env={**os.environ, **driver[1]},
        stdout=subprocess.PIPE,
    )
    deadline = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size > 500):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"lines of 2 GPUs" in said
    assert len(read_trace(path).records[0]) > 2


def test_record_without_any_answer(tmp_path: Path, driver: tuple[Scenario, dict[str, str]]) -> None:
    scenario, environ = driver
    for gpu in range(2):
        scenario.inject("*", 15, gpu=gpu)
    done = run("record", str(tmp_path / "t.jsonl"), environ=environ)
    assert done.returncode == 1
    assert "joulebook record: " in done.stderr
    assert not (tmp_path / "t.jsonl").exists()


def test_the_doctor_on_a_node_with_gpus(
    ledger: Sample, driver: tuple[Scenario, dict[str, str]]
) -> None:
    # No SLURM, whatever else has left a directory of its hooks on this machine.
    without = {"JOULEBOOK_TENANTS_SLURM_ENABLED": "false"}
    done = run("doctor", ledger=ledger.path, environ={**driver[1], **without})
    flat = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stdout
    assert "NVML opens, driver 550.54.15" in flat
    assert "energy counter (1,388.889 kWh since the driver was loaded), 50 W now" in flat
    assert "no energy counter (older than Volta?), 50 W now" in flat
    assert "the ledger balances to the microjoule" in flat
    assert f"no daemon is running on {ledger.path}" in flat


def test_the_doctor_and_a_hung_driver(
    ledger: Sample, driver: tuple[Scenario, dict[str, str]]
) -> None:
    scenario, environ = driver
    scenario.hang("nvmlDeviceGetTotalEnergyConsumption")
    code = (
        "import os, sys; from pathlib import Path\n"
        "from joulebook.commands.doctor import doctor\n"
        "from joulebook.commands.doctor.checks import Site\n"
        "from joulebook.terminal import Screen\n"
        "from joulebook.config import load\n"
        "site = Site(load(None, os.environ), Path('none'), patience_s=1)\n"
        "sys.exit(doctor.show(site, Screen()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environ, "JOULEBOOK_LEDGER_PATH": str(ledger.path)},
        capture_output=True,
        timeout=60,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert "NVML does not answer within 1 s" in done.stdout


def test_the_doctor_and_a_daemon(ledger: Sample) -> None:
    lock = LedgerLock(ledger.path)
    try:
        with serving() as server:
            listen = {"JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{server.port}"}
            done = run("doctor", ledger=ledger.path, environ=listen)
        silent = run("doctor", ledger=ledger.path, environ=listen)
    finally:
        lock.release()
    flat = " ".join(done.stdout.split())
    assert re.search(rf"pid {os.getpid()} \(.*\) holds the ledger", flat)
    assert "/readyz: ready" in flat
    assert "OK sensor nvml is up" in flat and "FAIL sensor rapl is down" in flat
    assert done.returncode == 1
    assert silent.returncode == 1 and "FAIL no daemon answers" in " ".join(silent.stdout.split())


def test_the_doctor_finds_books_that_are_wrong(ledger: Sample, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(ledger.path.read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE postings SET energy_uj = energy_uj + 1 WHERE meter_id = 1")
    done = run("doctor", ledger=path)
    assert done.returncode == 1
    assert "differ by -" in " ".join(done.stdout.split())
