"""A real SLURM cluster on this machine for tests: controller, several slurmd, fake GPU devices.

Run as root with slurm-wlm and munge installed (slurmdbd and mariadb-server for accounting).
Every daemon is a foreground child, so that `stop` ends exactly what `start` began. Node names
carry the process id: two test runs at once do not share cgroup directories.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.ports import free_port

_SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={dir}/munge.sock
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={dir}/slurmctld.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdPidFile={dir}/slurmd.%n.pid
SlurmdLogFile={dir}/slurmd.%n.log
SlurmdSpoolDir={spool}/%n
StateSaveLocation={dir}/state
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
MailProg=/bin/true
GresTypes=gpu,shard
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,requeue_setup_env_fail
PrologFlags=Alloc,Contain
KillWait=2
"""

_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={dir}/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
"""

_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={dir}/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={dir}/slurmdbd.pid
LogFile={dir}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=pw
"""

_GRANT = (
    "create database if not exists slurm_acct_db; "
    "create user if not exists slurm@localhost identified by 'pw'; "
    "grant all on slurm_acct_db.* to slurm@localhost"
)


_SERIAL = itertools.count(1)


def _until(done: Callable[[], object], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if done():
            return
        time.sleep(0.02)
    raise TimeoutError(f"waited {timeout_s} s for {what}")


class SlurmCluster:
    """A cluster below `directory` (which must be readable by every user of it).

    The GPUs have device files `<directory>/dev/nvidiaN`; the first `gpus_per_node` are the first
    node's, and so on. Each node tells its own to SLURM in the order `device_order` (numbers below
    `gpus_per_node`; default 0, 1, ...). `shards` is the number of shards of a node
    (0: no shard GRES). Hooks run without the
    environment of slurmd, so each is called by a wrapper that sets `hook_env` first.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 1,
        gpus_per_node: int = 4,
        *,
        shards: int = 0,
        accounting: bool = False,
        prolog: Path | None = None,
        epilog: Path | None = None,
        task_prolog: Path | None = None,
        device_order: Sequence[int] | None = None,
        cpus_per_node: int = 16,
        hook_env: Mapping[str, str] | None = None,
        extra: str = "",
    ) -> None:
        self.directory = directory
        # The kernel's cgroups are named after them: two clusters at once must not share any.
        self.nodes = [f"n{os.getpid()}c{next(_SERIAL)}x{i + 1}" for i in range(nodes)]
        self.devices = directory / "dev"
        self.accounting = accounting
        self.env = {**os.environ, "SLURM_CONF": str(directory / "slurm.conf")}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        # slurmstepd makes sockets there, whose paths may have 108 bytes.
        self._spool = Path(tempfile.mkdtemp(prefix="slurm"))
        self._spool.chmod(0o755)  # Users run their scripts from there.
        directory.chmod(0o755)
        for each in ("state", "dev"):
            (directory / each).mkdir()
        for minor in range(nodes * gpus_per_node):
            os.mknod(self.devices / f"nvidia{minor}", 0o20666, os.makedev(195, minor))
        ports = [free_port() for _ in range(nodes + 2)]
        self._dbd_port = ports[1]
        gres = f"gpu:a100:{gpus_per_node}" + (f",shard:{shards}" if shards else "")
        conf = _SLURM_CONF.format(
            cluster="lab",
            host=socket.gethostname(),
            dir=directory,
            spool=self._spool,
            port=ports[0],
        )
        for key, hook in (("Prolog", prolog), ("Epilog", epilog), ("TaskProlog", task_prolog)):
            if hook is not None:
                conf += f"{key}={self._wrapped(key, hook, hook_env or {})}\n"
        if accounting:
            conf += _ACCOUNTING.format(port=ports[1], dir=directory)
        for name, port in zip(self.nodes, ports[2:], strict=True):
            conf += (
                f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} "
                f"CPUs={cpus_per_node} RealMemory=2000"
                + (f" Gres={gres}\n" if gpus_per_node else "\n")
            )
        conf += "PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        (directory / "slurm.conf").write_text(conf + extra)
        order = range(gpus_per_node) if device_order is None else device_order
        lines = [
            f"NodeName={name} Name=gpu Type=a100 "
            f"File={self.devices}/nvidia{n * gpus_per_node + minor}\n"
            for n, name in enumerate(self.nodes)
            for minor in order
        ]
        if shards:
            lines += [f"NodeName={name} Name=shard Count={shards}\n" for name in self.nodes]
        (directory / "gres.conf").write_text("".join(lines))
        (directory / "cgroup.conf").write_text(
            "CgroupPlugin=autodetect\nConstrainDevices=yes\nConstrainRAMSpace=no\n"
        )
        secret = directory / "munge.key"
        secret.write_bytes(os.urandom(128))
        secret.chmod(0o400)

    def __enter__(self) -> SlurmCluster:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._spool, ignore_errors=True)

    def _wrapped(self, key: str, hook: Path, env: Mapping[str, str]) -> Path:
        path = self.directory / f"{key.lower()}.sh"
        lines = "".join(f"{k}={shlex.quote(v)}; export {k}\n" for k, v in env.items())
        path.write_text(f"#!/bin/sh\n{lines}exec {hook}\n")
        path.chmod(0o755)
        return path

    # -- life cycle

    def start(self) -> None:
        """Start every daemon and wait until all nodes are idle."""
        d = self.directory
        self._spawn(
            "munged", "munged", "-F", "-f", "-S", f"{d}/munge.sock", "--key-file",
            f"{d}/munge.key", "--log-file", f"{d}/munged.log", "--pid-file", f"{d}/munged.pid",
            "--seed-file", f"{d}/munge.seed", "--num-threads", "4",
        )  # fmt: skip
        _until((d / "munge.sock").exists, 10, "munged")
        if self.accounting:
            self._start_accounting()
        self._spawn("slurmctld", "slurmctld", "-D", "-c")
        for node in self.nodes:
            self.start_slurmd(node)
        _until(self._all_idle, 40, "idle nodes")

    def _start_accounting(self) -> None:
        d = self.directory
        db = d / "db"
        for each in (db, db / "tmp"):
            each.mkdir()
            shutil.chown(each, "mysql", "mysql")
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={db}/data",
             f"--tmpdir={db}/tmp", "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._spawn(
            "mariadbd", "mariadbd", "--no-defaults", f"--datadir={db}/data", f"--tmpdir={db}/tmp",
            f"--socket={db}/m.sock", f"--pid-file={db}/m.pid", "--skip-networking",
            "--user=mysql", "--innodb-flush-log-at-trx-commit=0",
        )  # fmt: skip
        grant = ["mariadb", "--no-defaults", "-S", f"{db}/m.sock", "-uroot", "-e", _GRANT]
        _until(
            lambda: subprocess.run(grant, stderr=subprocess.DEVNULL, check=False).returncode == 0,
            30, "mariadb",
        )  # fmt: skip
        conf = d / "slurmdbd.conf"
        conf.write_text(
            _SLURMDBD_CONF.format(dir=d, host=socket.gethostname(), port=self._dbd_port)
        )
        conf.chmod(0o600)
        self._spawn("slurmdbd", "slurmdbd", "-D", MYSQL_UNIX_PORT=f"{db}/m.sock")

        def answers() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._dbd_port), 1).close()
                return True
            return False

        _until(answers, 30, "slurmdbd")

    def start_slurmd(self, node: str) -> None:
        """Start (again) the slurmd of one node."""
        self._spawn(f"slurmd.{node}", "slurmd", "-D", "-N", node)

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL the slurmd of one node: its jobs go on."""
        child = self._children.pop(f"slurmd.{node}")
        child.kill()
        child.wait()

    def stop(self) -> None:
        """End all jobs and daemons, and remove the cgroup directories that they made."""
        if "slurmctld" in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired, TimeoutError):
                for state in ("PENDING", "SUSPENDED", "RUNNING"):
                    self.sh(f"scancel --state={state}", timeout_s=5)
                _until(lambda: self.sh("squeue -h -t R,CG,S", timeout_s=5) == "", 15, "jobs to end")
        for child in reversed(self._children.values()):
            child.terminate()
        for child in reversed(self._children.values()):
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()
        self._remove_cgroups()

    def _remove_cgroups(self) -> None:
        for node in self.nodes:
            tops = [*Path("/sys/fs/cgroup").glob(f"*/slurm_{node}")]
            scope = f"{node}_slurmstepd.scope"
            # What vanishes meanwhile (of another cluster, say) is passed over; by Path.glob not.
            tops += [
                Path(at, scope) for at, names, _ in os.walk("/sys/fs/cgroup") if scope in names
            ]
            for top in tops:
                for procs in top.rglob("cgroup.procs"):
                    for pid in procs.read_text().split():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(pid), signal.SIGKILL)
                for _ in range(20):
                    for each in sorted(top.rglob("*/"), reverse=True):
                        with contextlib.suppress(OSError):
                            each.rmdir()
                    with contextlib.suppress(OSError):
                        top.rmdir()
                    if not top.exists():
                        break
                    time.sleep(0.05)

    def _spawn(self, name: str, *command: str, **env: str) -> None:
        with (self.directory / f"{name}.out").open("ab") as out:
            self._children[name] = subprocess.Popen(
                command, env={**self.env, **env}, stdout=out, stderr=out, start_new_session=True
            )

    def _all_idle(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            states = self.sh("sinfo -h -N -o %t", timeout_s=2).split()
            return len(states) == len(self.nodes) and set(states) == {"idle"}
        return False

    # -- use

    def sh(self, command: str, timeout_s: float = 30) -> str:
        """The output of a shell command that may call the SLURM clients."""
        done = subprocess.run(
            command, shell=True, env=self.env, text=True, timeout=timeout_s, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
        )  # fmt: skip
        return done.stdout.strip()

    def run(self, *command: str | bytes, timeout_s: float = 30) -> str:
        """The output of a command given as an argument list; raises if it fails."""
        done = subprocess.run(
            list(command), env=self.env, timeout=timeout_s, check=False, capture_output=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"{str(command)[:500]}: {done.stdout!r} {done.stderr!r}")
        return done.stdout.decode("utf-8", "replace").strip()

    def sbatch(self, *options: str | bytes, script: str = "sleep 0.1") -> str:
        """Submit a batch script; its job id."""
        path = self.directory / f"script.{time.monotonic_ns()}.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        out = self.run(
            "sbatch", "--parsable", f"--chdir={self.directory}", "--output=/dev/null",
            *options, str(path),
        )  # fmt: skip
        return out.split(";")[0]

    def state(self, job_id: str) -> str:
        """The controller's word for the state of a job (empty once forgotten)."""
        return self.sh(f"squeue -h -j {job_id} -o %T 2>/dev/null")

    def wait_state(self, job_id: str, *states: str, timeout_s: float = 30) -> None:
        """Wait until a job is in one of `states`."""
        _until(lambda: self.state(job_id) in states, timeout_s, f"job {job_id} to be {states}")

    def wait_done(self, *job_ids: str, timeout_s: float = 60) -> None:
        """Wait until jobs have ended and their Epilogs have run."""
        wanted = ",".join(job_ids)
        _until(
            lambda: self.sh(f"squeue -h -j {wanted} 2>/dev/null") == "",
            timeout_s, f"jobs {wanted} to end",
        )  # fmt: skip

    def start_anew(self, job_id: str) -> None:
        """Let a job that was requeued start again now; SLURM would keep it for two minutes.

        A slurmd still knows the run before for a while after its end: it would run no Prolog for
        the new one, or kill it (the controller then says FAILED).
        """
        self.wait_state(job_id, "PENDING", timeout_s=60)
        time.sleep(5)

        def begun() -> bool:
            # Refused while the run before is still completing, which on a busy machine takes long.
            self.sh(f"scontrol update jobid={job_id} starttime=now")
            return self.state(job_id) != "PENDING"

        _until(begun, 60, f"job {job_id} to start again")
