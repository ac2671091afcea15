"""The Debian package on a real Debian: installed, run as its unit says, upgraded, purged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.lab import get, until
from tests.fakes.nvml.build import build
from tests.fakes.nvml.scenario import Gpu, Scenario
from tests.integration.debian_root import codename, debootstrap, inside, start_inside
from tests.integration.systemd_unit import Unit
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
UNIT = "usr/lib/systemd/system/joulebook.service"
FAKE = "opt/fake-driver"

EXPOSURE = 3.0
"""The worst that `systemd-analyze security` may say of the unit; 10 is a root shell."""

pytestmark = pytest.mark.timeout(900)


def built(out: Path, **env: str) -> Path:
    done = subprocess.run(
        [str(ROOT / "packaging" / "deb"), str(out)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.split()[-1])


@pytest.fixture(scope="module")
def package(package_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("deb"), TREE=str(package_tree))


@pytest.fixture(scope="module")
def later(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a newer version, with a configuration file that its makers have changed."""
    tree = tmp_path_factory.mktemp("later") / "tree"
    subprocess.run(["dpkg-deb", "-R", str(package), str(tree)], check=True, timeout=60)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*$", "Version: 9.9.9", control.read_text()))
    with (tree / "etc/joulebook/joulebook.toml").open("a") as file:
        file.write("# a new comment\n")
    newer = tree.with_name("joulebook_9.9.9.deb")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(newer)],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )
    return newer


@pytest.fixture(scope="module")
def node(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian with the package installed."""
    base = tmp_path_factory.mktemp("node")
    base.chmod(0o755)
    root = debootstrap(codename(), ["python3", "systemd"], base / "root")
    shutil.copy(package, root / "joulebook.deb")
    inside(root, "dpkg", "-i", "/joulebook.deb")
    return root


@pytest.fixture(scope="module")
def cards(node: Path) -> Scenario:
    """Two cards and a driver, where that root's programs find them."""
    place = node / FAKE
    place.mkdir(parents=True)
    shutil.copy(build(ROOT / ".build/fakes"), place)
    scenario = Scenario.create(place / "scenario", [Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b")])
    scenario.path.chmod(0o666)
    return scenario


def drive(port: int) -> dict[str, str]:
    """Beyond what the unit sets: the cards, and a port that is free here."""
    return {
        "LD_LIBRARY_PATH": f"/{FAKE}",
        "FAKE_NVML_SCENARIO": f"/{FAKE}/scenario",
        "JOULEBOOK_SENSORS_NVML_ENABLED": "true",
        "JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{port}",
    }


class Service:
    """The unit's ExecStart as its user, with a socket where systemd would listen."""

    def __init__(self, node: Path, log: Path) -> None:
        self.unit = Unit(node / UNIT)
        self.port = free_port()
        self.log = log
        (node / "run/notify").unlink(missing_ok=True)
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # A short path to a socket in the root: `sun_path` has 108 bytes.
        here = os.open(node / "run", os.O_PATH)
        self.notified.bind(f"/proc/self/fd/{here}/notify")
        os.close(here)
        (node / "run/notify").chmod(0o666)
        self.notified.settimeout(60)
        command = self.unit.as_its_user(self.unit.exec_start())
        env = {**drive(self.port), "NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "200000"}
        self.process = start_inside(node, *command, env=env, log=log)

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self.notified.close()

    def status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def service(node: Path, cards: Scenario, tmp_path: Path) -> Iterator[Service]:
    running = Service(node, tmp_path / "log")
    try:
        until(
            "the daemon to be ready",
            lambda: get(f"http://127.0.0.1:{running.port}/readyz")[0] == 200,
            timeout_s=60,
        )
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
        else:
            print((tmp_path / "log").read_text())


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_the_same_sources_give_the_same_package(
    package: Path, package_tree: Path, tmp_path: Path, whole: bool
) -> None:
    """From one tree; in `make nightly` from a tree that is laid out a second time."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    again = built(tmp_path / "out", TMPDIR=str(other), TZ="Pacific/Auckland", LC_ALL="C",
                  TREE="" if whole else str(package_tree))  # fmt: skip
    sums = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (package, again)]
    assert sums[0] == sums[1]


def test_holds_no_trace_of_where_it_was_built(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", str(package), str(tmp_path)], check=True, timeout=60)
    strange = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.is_symlink() and str(ROOT).encode() in path.read_bytes()
    ]
    assert not strange
    programs = sorted(path.name for path in (tmp_path / "usr/lib/joulebook/venv/bin").iterdir())
    assert programs == ["joulebook", *sorted(p for p in programs if p.startswith("python"))]


def test_every_link_of_its_pages_leads_to_a_file_of_it(package_tree: Path) -> None:
    pages = [*(package_tree / "usr/share/doc/joulebook").rglob("*.md")]
    assert {"README.md", "slurm.md"} <= {page.name for page in pages}
    dead = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", re.sub(r"(?s)```.*?```", "", page.read_text()))
        if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists()
    ]
    assert dead == []


def test_shells_complete_and_man_knows_it(node: Path, package_tree: Path) -> None:
    script = (
        "source /usr/share/bash-completion/completions/joulebook\n"
        "COMP_WORDS=(joulebook repo) COMP_CWORD=1; _joulebook_completion joulebook\n"
        "echo ${COMPREPLY[@]}"
    )
    assert inside(node, "bash", "-c", script).split() == ["report"]
    assert "joulebook report" in (package_tree / "usr/share/man/man1/joulebook.1").read_text()
    assert (node / "usr/share/zsh/vendor-completions/_joulebook").exists()
    assert (node / "usr/share/fish/vendor_completions.d/joulebook.fish").exists()


def test_installs_a_user_directories_and_a_unit_that_starts_at_boot(node: Path) -> None:
    assert "uid=" in inside(node, "id", "joulebook")
    said = inside(node, "stat", "-c", "%U %a %n", "/var/lib/joulebook", "/run/joulebook/jobs")
    assert said.split("\n")[:2] == [
        "joulebook 750 /var/lib/joulebook",
        "joulebook 755 /run/joulebook/jobs",
    ]
    assert (node / "etc/systemd/system/multi-user.target.wants/joulebook.service").is_symlink()
    assert inside(node, "joulebook", "--version").startswith("joulebook ")
    for hook in ("prolog", "epilog", "task_prolog", "job_summary"):
        assert os.access(node / f"usr/lib/joulebook/hooks/{hook}.sh", os.X_OK)


def test_any_user_names_experiments_in_code(node: Path) -> None:
    """By the distribution's Python, and by another one that is told where to look."""
    program = (
        "import joulebook, sys\n"
        "with joulebook.experiment('bert') as run: print(run.id)\n"
        "print(joulebook.__file__, 'typing' in sys.modules, 'msgspec' in sys.modules)"
    )
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # -IS: as an environment of its own, which does not look into the system's.
    told = "import sys; sys.path.append('/usr/lib/joulebook/python'); exec(sys.argv[1])"
    for python in (["python3", "-c"], ["python3", "-IS", "-c", told]):
        said = inside(node, *user, *python, program)
        assert said.startswith("span-")
        assert "/joulebook/__init__.py False" in said
    assert "ran\n" in inside(node, *user, "joulebook", "mark", "bert", "--", "echo", "ran")
    # The daemon's own packages stay its own.
    found = "import importlib.util as u; print([u.find_spec(n) for n in ('msgspec', 'uvicorn')])"
    assert inside(node, *user, "python3", "-c", found) == "[None, None]\n"


def test_the_unit_is_sound_and_hardened(node: Path) -> None:
    assert inside(node, "systemd-analyze", "verify", "joulebook.service") == ""
    said = inside(
        node,
        *["systemd-analyze", "security", "--offline=yes", "--no-pager"],
        *[f"--threshold={EXPOSURE * 10:.0f}", "joulebook.service"],
    )
    level = re.search(r"Overall exposure level for joulebook.service: ([\d.]+)", said)
    assert level, said
    print(level[0])
    assert 0 < float(level[1]) <= EXPOSURE
    unit = Unit(node / UNIT)
    # With any of these systemd would shut the cards off.
    for key in ("DeviceAllow", "PrivateDevices", "ProtectClock", "DevicePolicy"):
        assert not unit.words(key)


def test_serves_with_the_units_user_and_capabilities(service: Service, node: Path) -> None:
    status = service.status()
    uid = int(inside(node, "id", "-u", "joulebook"))
    assert {int(each) for each in status["Uid"].split()} == {uid} != {0}
    # CAP_DAC_READ_SEARCH is 2, CAP_SYS_PTRACE is 19: these and no others, for good.
    for key in ("CapPrm", "CapEff", "CapAmb", "CapBnd"):
        assert int(status[key], 16) == 1 << 2 | 1 << 19, key
    assert status["NoNewPrivs"] == "1"
    text = get(f"http://127.0.0.1:{service.port}/metrics")[1]
    assert len(re.findall(r"^joulebook_gpu_power_watts\{", text, re.MULTILINE)) == 2
    assert "joulebook_sensor_up{" in text
    heard: set[bytes] = set()
    while heard < {b"READY=1", b"WATCHDOG=1"}:
        heard.add(service.notified.recv(100))
    assert service.stop() == 0, service.log.read_text()
    # The ledger is the service's, and nobody else's.
    mode = (node / "var/lib/joulebook/ledger.db").stat()
    assert (mode.st_uid, mode.st_mode & 0o777) == (uid, 0o640)


def test_roots_hooks_and_the_services_daemon_work_together(service: Service, node: Path) -> None:
    """Root writes event files into a directory of the daemon's, which deletes what is booked."""
    jobs = node / "run/joulebook/jobs"
    job = ["env", "SLURM_JOB_ID=77", "SLURM_JOB_UID=1000", "SLURM_JOB_USER=ada", "SLURM_JOB_GPUS=0"]
    inside(node, *job, "/usr/lib/joulebook/hooks/prolog.sh")
    (event,) = jobs.glob("77.*.json")
    assert event.stat().st_uid == 0
    assert json.loads(event.read_text())["gpus"] == ["0"]
    time.sleep(1)
    inside(node, *job, "/usr/lib/joulebook/hooks/epilog.sh")
    until("the job to be booked and its file to be gone", lambda: not any(jobs.iterdir()), 60)


def test_the_doctor_says_what_is_missing_on_such_a_node(node: Path, cards: Scenario) -> None:
    (node / "etc/slurm").mkdir(exist_ok=True)
    conf = node / "etc/slurm/slurm.conf"
    site = node / "etc/slurm/site.sh"
    site.write_text("#!/bin/sh\nexit 0\n")
    site.chmod(0o755)
    conf.write_text("ClusterName=lab\nPrologFlags=Alloc\nProlog=/etc/slurm/site.sh\n")
    variables = [f"{key}={value}" for key, value in drive(free_port()).items()]

    def doctor() -> str:
        said = inside(node, "sh", "-c", 'env "$@" joulebook doctor || true', "sh", *variables)
        return " ".join(said.split())

    before = doctor()
    assert "systemctl enable --now joulebook" in before
    assert (
        "Prolog in /etc/slurm/slurm.conf is not Joulebook's (it runs /etc/slurm/site.sh)" in before
    )
    assert "joulebook hooks install" in before
    # What it says to do is done; then it is content.
    printed = inside(node, "joulebook", "hooks", "install")
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    assert lines == ["Prolog=/etc/slurm/prolog.d/*", "Epilog=/etc/slurm/epilog.d/*"]
    conf.write_text("\n".join(["ClusterName=lab", "PrologFlags=Alloc", *lines]) + "\n")
    after = doctor()
    assert "OK Prolog: /etc/slurm/prolog.d/joulebook.sh" in after
    assert "OK Epilog: /etc/slurm/epilog.d/joulebook.sh" in after
    assert (node / "etc/slurm/prolog.d/site.sh").resolve().name == "site.sh"


def test_an_upgrade_keeps_configuration_and_ledger_a_purge_keeps_nothing(
    node: Path, cards: Scenario, later: Path, tmp_path: Path
) -> None:
    config, ledger = node / "etc/joulebook/joulebook.toml", node / "var/lib/joulebook/ledger.db"
    config.write_text('[node]\nname = "gpu01"\n')
    before = Service(node, tmp_path / "before")
    url = f"http://127.0.0.1:{before.port}/metrics"
    until("energy", lambda: _booked(url) > 0, timeout_s=60)
    booked = _booked(url)
    assert 'node="gpu01"' in get(url)[1]
    before.stop()
    inode, uid = ledger.stat().st_ino, ledger.stat().st_uid

    shutil.copy(later, node / "later.deb")
    said = inside(node, "dpkg", "--force-confold", "-i", "/later.deb")
    assert "Setting up joulebook (9.9.9)" in said
    assert config.read_text() == '[node]\nname = "gpu01"\n', "the administrator's, not the maker's"
    assert (ledger.stat().st_ino, ledger.stat().st_uid) == (inode, uid)
    after = Service(node, tmp_path / "after")
    url = f"http://127.0.0.1:{after.port}/metrics"
    until("the same books", lambda: _booked(url) >= booked, timeout_s=60)
    after.stop()

    inside(node, "dpkg", "--remove", "joulebook")
    assert ledger.exists() and config.exists()
    assert not (node / "usr/lib/joulebook").exists(), "nothing of the program is left"
    inside(node, "dpkg", "--purge", "joulebook")
    for gone in ("var/lib/joulebook", "etc/joulebook", "run/joulebook", UNIT):
        assert not (node / gone).exists(), gone
    wants = node / "etc/systemd/system/multi-user.target.wants/joulebook.service"
    assert not os.path.lexists(wants)


def _booked(url: str) -> float:
    """Joules that the books have, of all meters."""
    found = re.findall(r"^joulebook_meter_energy_joules_total\{.*\} (\S+)$", get(url)[1], re.M)
    return sum(map(float, found))
