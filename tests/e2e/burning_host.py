"""A machine whose CPU meter follows what SLURM's jobs really burn: the truth of host energy.

A thread reads the CPU time that the kernel counted for all jobs of a node, some hundred times a
second, and moves the counters of a fake powercap tree, and of a fake /proc/stat, along with it:

    energy = idle power x time + power of a core x CPU time of jobs and system

The system works a quarter as much as the jobs do, while they do. What each job has used is read
from its own cgroup, by other code than the daemon's.
"""

from __future__ import annotations

import contextlib
import glob
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.sysfs.machine import Machine

CGROUPS = Path("/sys/fs/cgroup")
CORES = 8
WRAP_UJ = 10_000_000_000
BEGIN_UJ = WRAP_UJ - 600_000_000
"""The counter goes around while the jobs run: 600 J are a few seconds of them."""

SYSTEM_PERCENT = 25


class BurningHost:
    """The fake machine below `root`, beside the real SLURM node `node`."""

    def __init__(self, root: Path, node: str, *, idle_w: float, core_w: float) -> None:
        self.machine = Machine(root)
        most_w = idle_w + core_w * (os.cpu_count() or 1) * (1 + SYSTEM_PERCENT / 100)
        self.zone = self.machine.zone(
            "intel-rapl:0", "package-0", 0, range_uj=WRAP_UJ, max_power_uw=round(most_w * 1e6)
        )
        self.idle_w, self.core_w = idle_w, core_w
        self._node = node
        self._known: dict[str, int] = {}
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.total_uj = 0

    def __enter__(self) -> BurningHost:
        self._step()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def cpu_s(self, job_id: str) -> float:
        """The CPU time of a job, in seconds."""
        return self._known[job_id] / 1e9

    def true_j(self, job_id: str) -> float:
        """What a job consumed above the idle floor."""
        return self.core_w * self.cpu_s(job_id)

    def settings(self) -> dict[str, str]:
        """What the daemon needs to measure this machine, and nothing else."""
        return {
            "JOULEBOOK_SENSORS_NVML_ENABLED": "false",
            "JOULEBOOK_SENSORS_RAPL_ENABLED": "true",
            "JOULEBOOK_SENSORS_RAPL_ROOT": str(self.machine.powercap),
            "JOULEBOOK_HOST_PROC": str(self.machine.proc),
        }

    def _follow(self) -> None:
        while not self._stop.wait(0.004):
            self._step()

    def _step(self) -> None:
        for job_id, used_ns in self._jobs():
            self._known[job_id] = max(used_ns, self._known.get(job_id, 0))
        passed_s = time.monotonic() - self._began
        jobs_ns = sum(self._known.values())
        busy_ns = jobs_ns + jobs_ns * SYSTEM_PERCENT // 100
        self.total_uj = BEGIN_UJ + round(self.idle_w * passed_s * 1e6 + self.core_w * busy_ns / 1e3)
        # Renamed into place: the kernel never shows half a number either.
        stat = Machine.stat(cores=CORES, busy_ns=busy_ns)
        for path, text in (
            (self.zone / "energy_uj", f"{self.total_uj % WRAP_UJ}\n"),
            (self.machine.proc / "stat", stat),
        ):
            temporary = path.with_suffix(".new")
            temporary.write_text(text)
            temporary.replace(path)

    def _jobs(self) -> Iterator[tuple[str, int]]:
        """The CPU time of each job that runs here, on either kind of cgroups."""
        # Not Path.glob, which fails where a job ends meanwhile.
        places = glob.glob(f"{CGROUPS}/cpu*/slurm_{self._node}/uid_*/job_*")  # noqa: PTH207
        places += glob.glob(  # noqa: PTH207
            f"{CGROUPS}/system.slice/{self._node}_slurmstepd.scope/job_*"
        )
        for place in map(Path, places):
            with contextlib.suppress(OSError, ValueError, IndexError):
                job_id = place.name.removeprefix("job_")
                if (place / "cpuacct.usage").exists():
                    yield job_id, int((place / "cpuacct.usage").read_text())
                elif "usage_usec" in (text := (place / "cpu.stat").read_text()):
                    yield job_id, int(text.split()[1]) * 1_000


def burner(path: Path) -> Path:
    """`burn SECONDS [CHILDREN [FILE]]`: uses so much CPU time, however busy the machine is; with
    children it is theirs, each too short-lived to be seen in a list of processes. Halfway it waits
    until FILE exists.
    """
    path.write_text(
        "#!/usr/bin/python3\n"
        "import os, sys, time\n"
        "wanted, children, file = (*sys.argv[1:], *('', '0', '')[len(sys.argv) - 1:])\n"
        "def use(seconds):\n"
        "    end = time.process_time() + seconds\n"
        "    while time.process_time() < end:\n"
        "        pass\n"
        "def half():\n"
        "    for _ in range(int(children)):\n"
        "        child = os.fork()\n"
        "        if not child:\n"
        "            use(float(wanted) / 2 / int(children))\n"
        "            os._exit(0)\n"
        "        os.waitpid(child, 0)\n"
        "    if not int(children):\n"
        "        use(float(wanted) / 2)\n"
        "half()\n"
        "while file and not os.path.exists(file):\n"
        "    time.sleep(0.05)\n"
        "half()\n"
    )
    os.chmod(path, 0o755)  # noqa: PTH101
    return path
