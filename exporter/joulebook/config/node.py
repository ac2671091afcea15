"""Every key of the configuration file: its type, default, bounds and meaning.

Each class is one table of the file (`[daemon]`, `[sensors.nvml]`, ...). The `doc` text of a key
appears in `joulebook config` and in the documentation, so write it for administrators.
"""

from typing import Annotated, Literal

from joulebook.config.load import AUTO
from joulebook.config.load import Enabled as Enabled  # noqa: PLC0414
from joulebook.config.load import Section as Section  # noqa: PLC0414
from joulebook.config.load import doc as doc  # noqa: PLC0414
from joulebook.config.workloads import Kubernetes as Kubernetes  # noqa: PLC0414
from joulebook.config.workloads import Processes as Processes  # noqa: PLC0414
from joulebook.config.workloads import Workloads as Workloads  # noqa: PLC0414
from joulebook.core.experiments import DEFAULT_RULES


class NodeSection(Section, frozen=True):
    """The identity of this machine."""

    name: Annotated[
        str, doc("Value of the label `node`. Empty: the host name up to its first dot.")
    ] = ""
    cluster: Annotated[str, doc("Value of the label `cluster`. Empty: the label is left out.")] = ""


class DaemonSection(Section, frozen=True):
    """The daemon's intervals and timeouts."""

    interval_s: Annotated[float, doc("Seconds between polls of the sensors.", ge=0.1, le=60)] = 1.0
    commit_s: Annotated[
        float,
        doc(
            "Seconds between commits to the ledger; a workload that starts or ends triggers one "
            "at once. Counters advance with each commit. A crash loses no energy, only how "
            "shared devices were shared since the last commit.",
            ge=0.1,
            le=60,
        ),
    ] = 10.0
    settle_s: Annotated[
        float,
        doc("Seconds to hold energy back for late evidence before booking it.", ge=0, le=600),
    ] = 3.0
    process_interval_s: Annotated[
        float,
        doc(
            "Seconds between reads of the process lists (the slow call). If longer than "
            "`settle_s`, the use of a GPU without an allocation is detected too late.",
            ge=0.1,
            le=3600,
        ),
    ] = 2.0
    hang_s: Annotated[
        float,
        doc(
            "Seconds after which a sensor call that has not returned makes /readyz fail.",
            gt=0,
            le=300,
        ),
    ] = 2.0
    wait_for_sensors: Annotated[
        bool,
        doc(
            "If there is nothing to measure: true: keep running, log it, and retry every minute; "
            "false: refuse to start."
        ),
    ] = False


class ServerSection(Section, frozen=True):
    """The HTTP server: /metrics, /readyz, /healthz and the status page."""

    listen: Annotated[
        str,
        doc('host:port. "[::]:9816" or ":9816" listens on every address of the machine.'),
    ] = "127.0.0.1:9816"
    web_config: Annotated[
        str,
        doc(
            "Path of an exporter-toolkit web configuration file (TLS, client certificates, basic "
            "auth). Empty: plain HTTP, for anyone who can reach `listen`."
        ),
    ] = ""
    hosts: Annotated[
        tuple[str, ...],
        doc(
            "Further names under which this port is asked, where it speaks plain HTTP without "
            "passwords. Addresses, this machine's names and its domains are known; other names "
            "are refused, for a web page may make its own name point here (DNS rebinding)."
        ),
    ] = ()
    token_file: Annotated[
        str, doc("File with the bearer token for /v1/postings. Empty: /v1/postings is off.")
    ] = ""


class Log(Section, frozen=True):
    """Logging, to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], doc("Lowest level to log.")] = (
        "info"
    )
    format: Annotated[
        Literal["text", "json"], doc("One line of text or one JSON object per message.")
    ] = "text"


class Ledger(Section, frozen=True):
    """The ledger of this node."""

    path: Annotated[
        str,
        doc("Absolute path of the SQLite file, on a local disk that survives a reboot."),
    ] = "/var/lib/joulebook/ledger.db"
    retention_days: Annotated[
        int, doc("Days to keep postings. Counters are kept for ever.", ge=1, le=36500)
    ] = 400
    allow_volatile: Annotated[
        bool, doc("Allow `path` on a tmpfs or network file system, which may lose data.")
    ] = False


class ExpositionSection(Section, frozen=True):
    """What Prometheus sees."""

    scrape_interval_s: Annotated[
        float, doc("Scrape interval of Prometheus, in seconds.", gt=0, le=3600)
    ] = 15.0
    zero_hold_s: (
        Annotated[
            float,
            doc(
                "Seconds for which a new series shows 0, so that Prometheus sees it start there. "
                "Not set: 2.5 x `scrape_interval_s`.",
                ge=0,
                le=86400,
            ),
        ]
        | None
    ) = None
    linger_s: Annotated[
        float,
        doc("Seconds to keep exposing a workload's series after it ends.", ge=0, le=86400),
    ] = 900.0
    max_experiments: Annotated[
        int,
        doc(
            "Maximum number of experiments with their own series; the rest share `(overflow)`.",
            ge=1,
            le=100_000,
        ),
    ] = 1000
    max_experiments_per_owner: Annotated[
        int,
        doc(
            "Maximum number of experiments with their own series per user and account, counted "
            "separately for names that a person gave and for derived names.",
            ge=1,
            le=100_000,
        ),
    ] = 50
    max_workloads: Annotated[
        int,
        doc(
            "Maximum number of workloads with their own series; the rest share `(overflow)`.",
            ge=1,
            le=100_000,
        ),
    ] = 500
    compat: Annotated[
        tuple[Literal["dcgm", "dcgm-hostname"], ...],
        doc(
            'Expose the metrics of other exporters, too: "dcgm" (the default counters of '
            'dcgm-exporter 4.8), or "dcgm-hostname" (the same with its newer label `hostname` '
            "instead of `Hostname`)."
        ),
    ] = ()

    def zero_hold(self) -> float:
        """Return the seconds for which a new series shows 0."""
        return 2.5 * self.scrape_interval_s if self.zero_hold_s is None else self.zero_hold_s


class Slurm(Section, frozen=True):
    """SLURM jobs."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    events_dir: Annotated[
        str,
        doc(
            "Directory of the event files written by Prolog and Epilog; owned by root, closed to "
            "others."
        ),
    ] = "/run/joulebook/jobs"
    cgroup_root: Annotated[str, doc("Mount point of the cgroup file systems.")] = "/sys/fs/cgroup"
    hpc_job_mapping_dir: Annotated[
        str, doc("Directory of dcgm-exporter's job-mapping files, used as evidence. Empty: none.")
    ] = ""
    gpustat_dir: Annotated[
        str,
        doc(
            "Directory of Jobstats' job-mapping files (/run/gpustat), used as evidence. Empty: "
            "none."
        ),
    ] = ""
    slurm_conf: Annotated[
        str, doc("Path of slurm.conf. Empty: SLURM_CONF, else slurmd's default.")
    ] = ""
    gres_conf: Annotated[
        str,
        doc("Path of gres.conf, which maps GRES indices to devices. Empty: next to slurm.conf."),
    ] = ""
    node_name: Annotated[
        str,
        doc(
            "If several slurmd run on this host, the NodeName of the one whose jobs count. "
            "Empty: all."
        ),
    ] = ""
    scontrol: Annotated[
        str,
        doc(
            'Path of scontrol, called once per job that no file describes. "auto": the first on '
            "PATH. Empty: never called."
        ),
    ] = "auto"
    gpu_ids: Annotated[
        Literal["gres", "minor", "uuid"],
        doc(
            "Meaning of GPU numbers in event files that do not state it; SLURM's own are GRES "
            'indices ("gres").'
        ),
    ] = "gres"


class Tenants(Section, frozen=True):
    """Who holds and uses the devices: the workload sources."""

    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()
    processes: Processes = Processes()


class Experiments(Section, frozen=True):
    """Experiments, by which a lab totals its workloads."""

    rules: Annotated[
        tuple[str, ...],
        doc("Where to look for the experiment's name, in order; the first match wins."),
    ] = DEFAULT_RULES
