"""Every key of the configuration file: its type, default, bounds and meaning.

Each class is one table of the file (`[daemon]`, `[sensors.nvml]`, ...). What `doc` says of a key
is what `joulebook config` prints and what the documentation shows, so it is written for the
administrator. A key without a value in the file has the default that stands here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from joulebook.config.base import AUTO
from joulebook.config.base import Enabled as Enabled  # noqa: PLC0414
from joulebook.config.base import Section as Section  # noqa: PLC0414
from joulebook.config.base import doc as doc  # noqa: PLC0414
from joulebook.config.workloads import Kubernetes as Kubernetes  # noqa: PLC0414
from joulebook.config.workloads import Processes as Processes  # noqa: PLC0414
from joulebook.config.workloads import Workloads as Workloads  # noqa: PLC0414
from joulebook.core.experiments import DEFAULT_RULES


class NodeSection(Section, frozen=True):
    """Who this machine is."""

    name: Annotated[
        str, doc("Value of the label `node`. Empty: the host name up to its first dot.")
    ] = ""
    cluster: Annotated[str, doc("Value of the label `cluster`. Empty: the label is left out.")] = ""


class DaemonSection(Section, frozen=True):
    """How often the daemon looks and books, and how long it waits."""

    interval_s: Annotated[
        float, doc("Seconds from one look at the sensors to the next.", ge=0.1, le=60)
    ] = 1.0
    commit_s: Annotated[
        float,
        doc(
            "Seconds from one commit to the ledger to the next while no workload begins or ends "
            "(then one follows at once). Counters move as often; a crash loses no energy, but "
            "on shared devices how it was shared in this time.",
            ge=0.1,
            le=60,
        ),
    ] = 10.0
    settle_s: Annotated[
        float,
        doc("Seconds an interval is held back for claims that come late.", ge=0, le=600),
    ] = 3.0
    process_interval_s: Annotated[
        float,
        doc(
            "Seconds from one reading of the process lists (the slow call) to the next; more "
            "than `settle_s`, and use without an allocation is not seen in time.",
            ge=0.1,
            le=3600,
        ),
    ] = 2.0
    hang_s: Annotated[
        float,
        doc(
            "Seconds after which a call to a sensor that has not come back makes /readyz fail.",
            gt=0,
            le=300,
        ),
    ] = 2.0
    wait_for_sensors: Annotated[
        bool,
        doc(
            "Where there is nothing to measure: true: stay up, say so, and look again every "
            "minute; false: refuse to start."
        ),
    ] = False


class ServerSection(Section, frozen=True):
    """Where /metrics, /readyz, /healthz and the page are served."""

    listen: Annotated[
        str,
        doc('host:port. "[::]:9816" or ":9816" is every address of the machine.'),
    ] = "127.0.0.1:9816"
    web_config: Annotated[
        str,
        doc(
            "Path of an exporter-toolkit web configuration file (TLS, client certificates, "
            "basic auth). Empty: plain HTTP for all who can reach `listen`."
        ),
    ] = ""
    token_file: Annotated[
        str, doc("File with the token that guards /v1/postings. Empty: that page is off.")
    ] = ""


class Log(Section, frozen=True):
    """What goes to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], doc("The least level that is written.")
    ] = "info"
    format: Annotated[Literal["text", "json"], doc("One line of text or one JSON object.")] = "text"


class Ledger(Section, frozen=True):
    """The books of this node."""

    path: Annotated[
        str,
        doc("Absolute path of the sqlite file, on a local disk that survives a reboot."),
    ] = "/var/lib/joulebook/ledger.db"
    retention_days: Annotated[
        int, doc("Days for which postings are kept; counters are kept for ever.", ge=1, le=36500)
    ] = 400
    allow_volatile: Annotated[
        bool, doc("Accept a tmpfs or network file system under `path`, and what it may lose.")
    ] = False


class ExpositionSection(Section, frozen=True):
    """How the books are shown to Prometheus."""

    scrape_interval_s: Annotated[
        float, doc("Seconds between two scrapes, as Prometheus is set.", gt=0, le=3600)
    ] = 15.0
    zero_hold_s: (
        Annotated[
            float,
            doc(
                "Seconds for which a new series shows 0, so that Prometheus sees where it began. "
                "Not set: 2.5 x `scrape_interval_s`.",
                ge=0,
                le=86400,
            ),
        ]
        | None
    ) = None
    linger_s: Annotated[
        float,
        doc("Seconds for which a workload's series stay after its end.", ge=0, le=86400),
    ] = 900.0
    max_experiments: Annotated[
        int, doc("Experiments with series of their own; more share `(overflow)`.", ge=1, le=100_000)
    ] = 1000
    max_experiments_per_owner: Annotated[
        int,
        doc(
            "Experiments with series of their own for each user and account: so many whose name "
            "a person gave, and as many with a derived name.",
            ge=1,
            le=100_000,
        ),
    ] = 50
    max_workloads: Annotated[
        int, doc("Workloads with series of their own; more share `(overflow)`.", ge=1, le=100_000)
    ] = 500
    compat: Annotated[
        tuple[Literal["dcgm", "dcgm-hostname"], ...],
        doc(
            'Metric names of other exporters to show as well: "dcgm" (default counters of '
            'dcgm-exporter 4.8), or "dcgm-hostname" (the same with its newer label `hostname` for '
            "`Hostname`)."
        ),
    ] = ()

    def zero_hold(self) -> float:
        """Seconds for which a new series shows 0."""
        return 2.5 * self.scrape_interval_s if self.zero_hold_s is None else self.zero_hold_s


class Slurm(Section, frozen=True):
    """SLURM jobs."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    events_dir: Annotated[
        str, doc("Where Prolog and Epilog leave their event files; root's, closed to others.")
    ] = "/run/joulebook/jobs"
    cgroup_root: Annotated[str, doc("Where the cgroup file systems are mounted.")] = (
        "/sys/fs/cgroup"
    )
    hpc_job_mapping_dir: Annotated[
        str, doc("Job-mapping files of dcgm-exporter, taken as evidence. Empty: none.")
    ] = ""
    gpustat_dir: Annotated[
        str, doc("Job-mapping files of Jobstats (/run/gpustat), taken as evidence. Empty: none.")
    ] = ""
    slurm_conf: Annotated[
        str, doc("Path of slurm.conf. Empty: SLURM_CONF, else where slurmd keeps it.")
    ] = ""
    gres_conf: Annotated[
        str, doc("Path of gres.conf, which maps positions to devices. Empty: beside slurm.conf.")
    ] = ""
    node_name: Annotated[
        str,
        doc(
            "NodeName of the one slurmd whose jobs count, where several run on this host. "
            "Empty: all of them."
        ),
    ] = ""
    scontrol: Annotated[
        str,
        doc(
            'Path of scontrol, asked once per job that no file explains. "auto": the first on '
            "PATH. Empty: never asked."
        ),
    ] = "auto"
    gpu_ids: Annotated[
        Literal["gres", "minor", "uuid"],
        doc("What the numbers in event files are that do not say it: SLURM's own are positions."),
    ] = "gres"


class Tenants(Section, frozen=True):
    """Who holds and uses the devices."""

    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()
    processes: Processes = Processes()


class Experiments(Section, frozen=True):
    """What a lab adds workloads up by."""

    rules: Annotated[
        tuple[str, ...],
        doc("Where the name of the experiment is looked for; the first that gives one wins."),
    ] = DEFAULT_RULES
