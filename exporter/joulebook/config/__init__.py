"""The configuration: one TOML file, overridden by `JOULEBOOK_<SECTION>_<KEY>` in the environment.

Keys are declared in `config.node` and its siblings; `config.load` reads them and words the errors.
Only the exact names of known keys are read from the environment: Kubernetes sets `JOULEBOOK_PORT`
and the like for a Service of that name, and `JOULEBOOK_EXPERIMENT` belongs to the researcher.
"""

import difflib
import functools
import ipaddress
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from msgspec import Struct

from joulebook.config.describe import toml
from joulebook.config.lab import (
    Budget,
    Collect,
    ReportSection,
    budget_conflicts,
    collect_conflicts,
    report_conflicts,
)
from joulebook.config.lab_server import (
    LabSection,
    ServingSection,
    lab_conflicts,
    serving_conflicts,
)
from joulebook.config.load import EnvValue, leaves, read, redact
from joulebook.config.node import (
    DaemonSection,
    Experiments,
    ExpositionSection,
    Ledger,
    Log,
    NodeSection,
    ServerSection,
    Tenants,
    Workloads,
    doc,
)
from joulebook.config.rates import Privacy, Rates
from joulebook.config.rates_check import conflicts as rate_conflicts
from joulebook.config.sensors import (
    CalibrationSection,
    Host,
    Sensors,
    calibration_conflicts,
)
from joulebook.config.sensors import conflicts as sensor_conflicts
from joulebook.config.workloads import Marks
from joulebook.core.experiments import is_rule
from joulebook.core.selectors import parse as parse_selector
from joulebook.errors import ConfigError
from joulebook.untrusted_files import read_named_text

_MOST_BYTES = 16 << 20
DEFAULT_PATH = Path("/etc/joulebook/joulebook.toml")
"""Read if it exists and no other file is given."""

PREFIX = "JOULEBOOK_"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """Joulebook's configuration. Every key is optional."""

    node: NodeSection = NodeSection()
    daemon: DaemonSection = DaemonSection()
    server: ServerSection = ServerSection()
    log: Log = Log()
    ledger: Ledger = Ledger()
    exposition: ExpositionSection = ExpositionSection()
    sensors: Sensors = Sensors()
    host: Host = Host()
    calibration: Annotated[
        dict[str, CalibrationSection],
        doc(
            "What a GPU reads, put right as it is booked, by UUID or by model (`*` stands for "
            'anything): "GPU-..." = { gain = 1.04, offset_w = -3.5, uncertainty_ratio = 0.01, '
            'source = "PDU of rack 4, 2026" }; `joulebook calibrate` writes them.'
        ),
    ] = {}
    tenants: Tenants = Tenants()
    marks: Marks = Marks()
    experiments: Experiments = Experiments()
    workloads: Workloads = Workloads()
    budgets: Annotated[
        dict[str, Budget],
        doc(
            'Monthly budgets (UTC): "account/experiment" = { kwh = 500 } or { cost = 1000 }; '
            '"account" alone covers the whole account. Use the same budgets on every node.'
        ),
    ] = {}
    privacy: Privacy = Privacy()
    collect: Collect = Collect()
    lab: LabSection = LabSection()
    serving: ServingSection = ServingSection()
    rates: Rates = Rates()
    report: ReportSection = ReportSection()

    def describe(self) -> str:
        """Return this configuration as a commented TOML file, with secrets in URLs redacted."""
        return toml(self)

    def node_name(self) -> str:
        """The value of the label `node`."""
        return self.node.name or host_name()

    def kubernetes_node(self) -> str:
        """What the cluster calls this node; it knows hosts by their whole names."""
        return self.tenants.kubernetes.node_name or self.node.name or socket.gethostname()


def host_name() -> str:
    """What this machine calls itself, without its domain."""
    return socket.gethostname().partition(".")[0]


@functools.cache
def env_names() -> Mapping[str, tuple[str, ...]]:
    """Return the environment variables that are read, each with the path of the key it sets."""
    return {PREFIX + "_".join(path).upper(): path for path in leaves(Config)}


_OTHERS = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("EXPERIMENT", "STAGE", "MARKS_DIR", "PASSWORD", "URL", "LAB_TOKEN"),
        # Set by the SLURM hooks.
        *("EVENTS_DIR", "COMMAND", "LABELS", "SUMMARY"),
        *("RATES_PRICE_TOKEN", "RATES_CARBON_TOKEN"),
    )
)
"""Variables with our prefix that are not settings: a researcher's, the hooks', and secrets."""

_OF_A_SERVICE = re.compile(r"_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_\w+)$", re.ASCII)
"""Variables that Kubernetes injects for each Service of the namespace, ours included."""


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Return variables that look like settings but are not, each with the closest match."""
    names = env_names()
    found = []
    for name, value in sorted(environ.items()):
        is_ours = not name.startswith(PREFIX) or name in names or name in _OTHERS
        injected = _OF_A_SERVICE.search(name) or (
            name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
        )
        if is_ours or injected:
            continue
        like = difflib.get_close_matches(name, [*names, *_OTHERS], 1, cutoff=0.8)
        hint = f"; did you mean {like[0]}?" if like else ""
        found.append(f"{name}: no such setting{hint}")
    return found


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the configuration.

    `path` must exist if given; `None` means `DEFAULT_PATH`, if that exists. Raises `ConfigError`
    with one line per problem: file or variable, key, value, and what is expected.
    """
    data: dict[str, Any] = {}
    source = str(DEFAULT_PATH)
    if path is not None or DEFAULT_PATH.exists():
        source = str(path or DEFAULT_PATH)
        data = _parse(path or DEFAULT_PATH)
    for variable, key in env_names().items():
        if variable in environ:
            _overlay(data, key, EnvValue(variable, environ[variable]))
    if PREFIX + "LEDGER_PATH" in environ and environ[PREFIX + "LEDGER_PATH"]:
        # Unlike a path in the file, this one may be relative to the caller's working directory.
        path_ = Path(environ[PREFIX + "LEDGER_PATH"]).absolute()
        _overlay(data, ("ledger", "path"), EnvValue(PREFIX + "LEDGER_PATH", str(path_)))
    config = read(Config, data, source)
    problems = [
        f"{_source_of(key, environ, source)}: {key}: {redact(what)}"
        for key, what in _conflicts(config)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return config


class Address(NamedTuple):
    """An address to listen on. An empty host means every address of the machine."""

    host: str
    port: int


def parse_listen(text: str) -> Address:
    """Parse `host:port`, `[v6]:port` or `:port`. Raises `ValueError` with what is expected."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([\w.-]*)):(\d{1,5})", text, re.ASCII)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f'{text!r} is not host:port, like "127.0.0.1:9816" or "[::]:9816"')
    if match[1]:
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
    return Address(match[1] or match[2] or "", int(match[3]))


def _parse(path: Path) -> dict[str, Any]:
    text = read_named_text(path, _MOST_BYTES)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _overlay(data: dict[str, Any], key: tuple[str, ...], value: EnvValue) -> None:
    for name in key[:-1]:
        inner = data.setdefault(name, {})
        if not isinstance(inner, dict):
            return  # The file is invalid there; `read` reports it.
        data = inner
    data[key[-1]] = value


def _source_of(key: str, environ: Mapping[str, str], source: str) -> str:
    variable = PREFIX + key.replace(".", "_").upper()
    return f"environment variable {variable}" if variable in environ else source


def _conflicts(config: Config) -> Iterator[tuple[str, str]]:
    """Check what the types of single keys cannot."""
    try:
        parse_listen(config.server.listen)
    except ValueError as error:
        yield "server.listen", str(error)
    if not Path(config.ledger.path).is_absolute():
        yield "ledger.path", f"{config.ledger.path!r}: expected an absolute path"
    if config.sensors.replay.enabled and not config.sensors.replay.trace:
        yield "sensors.replay.trace", "expected the path of a trace, since replay is enabled"
    if config.privacy.users == "hmac" and not config.privacy.key_file:
        yield "privacy.key_file", 'expected a path, since privacy.users = "hmac"'
    for rule in config.experiments.rules:
        if not is_rule(rule):
            yield (
                "experiments.rules",
                (
                    f"{rule!r}: expected comment, wckey, job_name, owner, workload, or "
                    "annotation:KEY, label:KEY, env:NAME"
                ),
            )
    for text in config.workloads.infrastructure_selectors:
        try:
            parse_selector(text)
        except ValueError as error:
            yield "workloads.infrastructure_selectors", str(error)
    user_key = config.tenants.kubernetes.user_key
    if user_key and not (is_rule(user_key) and user_key.startswith(("annotation:", "label:"))):
        yield "tenants.kubernetes.user_key", f"{user_key!r}: expected annotation:KEY or label:KEY"
    yield from budget_conflicts(config.budgets)
    yield from report_conflicts(config.report)
    yield from rate_conflicts(config.rates)
    yield from sensor_conflicts(config.sensors)
    yield from calibration_conflicts(config.calibration)
    yield from collect_conflicts(config.collect)
    yield from lab_conflicts(config.lab)
    yield from serving_conflicts(config.serving)
