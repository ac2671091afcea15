"""The configuration: its defaults, what is refused and how that is said, the environment."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from joulebook import config
from joulebook.cli import main
from joulebook.config import Config, env_names, load, misspelt, parse_listen
from joulebook.config.load import keys
from joulebook.config.node import DaemonSection
from joulebook.errors import ConfigError

DEFAULTS = {
    "node": {"name": "", "cluster": ""},
    "daemon": {
        "interval_s": 1.0,
        "commit_s": 10.0,
        "settle_s": 3.0,
        "process_interval_s": 2.0,
        "hang_s": 2.0,
        "wait_for_sensors": False,
    },
    "server": {"listen": "127.0.0.1:9816", "web_config": "", "hosts": (), "token_file": ""},
    "log": {"level": "info", "format": "text"},
    "ledger": {
        "path": "/var/lib/joulebook/ledger.db",
        "retention_days": 400,
        "allow_volatile": False,
    },
    "exposition": {
        "scrape_interval_s": 15.0,
        "zero_hold_s": None,
        "linger_s": 900.0,
        "max_experiments": 1000,
        "max_experiments_per_owner": 50,
        "max_workloads": 500,
        "compat": (),
    },
    "sensors": {
        "nvml": {"enabled": "auto"},
        "drm": {"enabled": "auto", "root": "/sys/class/drm"},
        "rapl": {"enabled": "auto", "root": "/sys/class/powercap"},
        "hwmon": {
            "enabled": "auto",
            "root": "/sys/class/hwmon",
            "includes_gpus": True,
        },
        "ipmi": {
            "enabled": False,
            "program": "ipmitool",
            "every_s": 10.0,
            "timeout_s": 5.0,
            "includes_gpus": True,
        },
        "redfish": {
            "enabled": False,
            "url": "",
            "credentials": "",
            "ca_file": "",
            "chassis": "",
            "every_s": 10.0,
            "timeout_s": 5.0,
            "includes_gpus": True,
        },
        "model": {
            "enabled": False,
            "cpu_idle_w": 0.0,
            "cpu_tdp_w": 0.0,
            "dram_w_per_gib": 0.0,
            "source": "",
        },
        "replay": {"enabled": False, "trace": ""},
    },
    "host": {"other": "none", "proc": "/proc"},
    "calibration": {},
    "tenants": {
        "slurm": {
            "enabled": "auto",
            "events_dir": "/run/joulebook/jobs",
            "cgroup_root": "/sys/fs/cgroup",
            "hpc_job_mapping_dir": "",
            "gpustat_dir": "",
            "slurm_conf": "",
            "gres_conf": "",
            "node_name": "",
            "scontrol": "auto",
            "gpu_ids": "gres",
        },
        "kubernetes": {
            "enabled": "auto",
            "pod_resources": "/var/lib/kubelet/pod-resources/kubelet.sock",
            "api": True,
            "service_account": "/var/run/secrets/kubernetes.io/serviceaccount",
            "kubeconfig": "",
            "node_name": "",
            "resources": (
                "nvidia.com/gpu",
                "nvidia.com/gpu.shared",
                "nvidia.com/mig-*",
                "amd.com/gpu",
                "gpu.intel.com/i915",
                "gpu.intel.com/xe",
            ),
            "drivers": ("gpu.nvidia.com", "gpu.amd.com", "gpu.intel.com"),
            "user_key": "",
            "poll_interval_s": 5.0,
            "cgroup_root": "/sys/fs/cgroup",
            "pod_logs": "/var/log/pods",
        },
        "processes": {
            "enabled": "auto",
            "infrastructure": (
                "Xorg",
                "Xwayland",
                "gnome-shell",
                "kwin_x11",
                "kwin_wayland",
                "plasmashell",
                "weston",
                "nvidia-persistenced",
                "nvidia-powerd",
                "nvidia-cuda-mps-control",
                "nvidia-cuda-mps-server",
                "nvidia-smi",
                "nv-hostengine",
                "dcgm-exporter",
                "dcgmproftester",
            ),
            "pid_namespace": "auto",
        },
    },
    "marks": {"enabled": "auto", "dir": "/run/joulebook/marks"},
    "experiments": {
        "rules": (
            "annotation:joulebook.io/experiment",
            "label:joulebook.io/experiment",
            "comment",
            "env:JOULEBOOK_EXPERIMENT",
            "env:WANDB_PROJECT",
            "env:WANDB_RUN_GROUP",
            "env:WANDB_SWEEP_ID",
            "env:MLFLOW_EXPERIMENT_NAME",
            "label:training.kubeflow.org/job-name",
            "label:jobset.sigs.k8s.io/jobset-name",
            "label:leaderworkerset.sigs.k8s.io/name",
            "label:volcano.sh/job-name",
            "label:ray.io/originated-from-cr-name",
            "label:ray.io/cluster",
            "label:workflows.argoproj.io/workflow",
            "label:kueue.x-k8s.io/pod-group-name",
            "label:app.kubernetes.io/part-of",
            "label:app.kubernetes.io/instance",
            "owner",
            "label:batch.kubernetes.io/job-name",
            "label:job-name",
            "label:kueue.x-k8s.io/queue-name",
            "wckey",
            "job_name",
            "workload",
        )
    },
    "workloads": {
        "infrastructure_selectors": (
            "namespace:kube-system",
            "namespace:gpu-operator",
            "namespace:nvidia-gpu-operator",
            "namespace:nvidia-device-plugin",
            "namespace:nvidia-dra-driver-gpu",
            "namespace:slurm,app.kubernetes.io/name=slurmd",
            "namespace:slinky,app.kubernetes.io/name=slurmd",
            "namespace:kai-resource-reservation",
            "namespace:runai-reservation",
        )
    },
    "budgets": {},
    "privacy": {"users": "plain", "key_file": ""},
    "collect": {
        "targets": (),
        "file_sd": (),
        "http_sd": "",
        "kubernetes": False,
        "kubernetes_service": "joulebook",
        "kubernetes_namespace": "",
        "kubernetes_port_name": "http",
        "scheme": "http",
        "token_file": "",
        "user": "",
        "password_file": "",
        "ca_file": "",
        "server_name": "",
        "cert_file": "",
        "key_file": "",
        "url": "",
        "every_s": 300.0,
        "timeout_s": 10.0,
        "parallel": 16,
        "refresh_s": 30.0,
        "listen": "",
    },
    "lab": {
        "url": "",
        "token_file": "",
        "listen": "127.0.0.1:9817",
        "socket": "",
        "public_url": "",
        "admins": (),
        "coordinators": {},
        "public": (),
        "munge": True,
        "munge_socket": "",
        "proxy_user": "",
        "proxy_secret_file": "",
        "proxy_certificate": "",
        "proxy_header": "X-Remote-User",
        "notices": {
            "users": {},
            "accounts": {},
            "idle_gpu_hours": 0.0,
            "smtp": "",
            "smtp_tls": "starttls",
            "smtp_user": "",
            "smtp_password_file": "",
            "sender": "",
        },
        "kubernetes": False,
        "slurm_coordinators": False,
        "results": {},
        "admin_comment": False,
    },
    "serving": {
        "kubernetes": False,
        "kubernetes_selector": "",
        "targets": {},
        "prometheus": "",
        "prometheus_token_file": "",
        "every_s": 60.0,
        "timeout_s": 5.0,
        "models": 20,
        "cost_limits": {},
    },
    "rates": {
        "currency": "EUR",
        "zone": "",
        "pue": None,
        "pue_source": "",
        "cache_dir": "",
        "pue_curve": {
            "kind": "none",
            "file": "",
            "url": "",
            "token_file": "",
            "keep_s": 86_400.0,
            "every_s": None,
        },
        "price": {
            "kind": "none",
            "per_kwh": None,
            "source": "",
            "timezone": "",
            "default": None,
            "windows": (),
            "file": "",
            "zone": "",
            "url": "",
            "token_file": "",
            "keep_s": 86_400.0,
            "every_s": None,
        },
        "carbon": {
            "kind": "none",
            "grams_per_kwh": None,
            "source": "",
            "file": "",
            "zone": "",
            "url": "",
            "token_file": "",
            "keep_s": 86_400.0,
            "every_s": None,
        },
        "water": {
            "site_l_per_kwh": None,
            "site_file": "",
            "site_source": "",
            "grid_l_per_kwh": None,
            "grid_file": "",
            "grid_source": "",
        },
        "hardware": {},
    },
    "report": {
        "region": "",
        "prometheus": "",
        "sacct": "auto",
        "sensor_percent": None,
        "sensor_source": "",
        "market_grams_per_kwh": None,
        "market_source": "",
        "stages": {},
        "host_multiplier": None,
        "host_source": "",
        "network_multiplier": None,
        "network_source": "",
        "server_kg": None,
        "server_gpus": None,
        "server_life_years": None,
        "embodied": {},
    },
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "joulebook.toml"
    path.write_text(text)
    return path


def refused(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


def test_every_default_is_pinned() -> None:
    assert msgspec.to_builtins(Config(), builtin_types=()) == msgspec.to_builtins(DEFAULTS)
    assert load(None, {}) == Config()


def test_every_key_is_documented() -> None:
    undocumented = []

    def visit(cls: type[msgspec.Struct], path: str) -> None:
        for name, key in keys(cls).items():
            section = key.section or key.members
            if section is not None:
                assert section.__doc__
                visit(section, f"{path}{name}.")
            if key.section is None and not (key.meta and key.meta.description):
                undocumented.append(path + name)

    visit(Config, "")
    assert undocumented == []


def test_default_configuration_loads_to_itself(tmp_path: Path) -> None:
    assert load(written(tmp_path, Config().describe()), {}) == Config()


def test_describe_loads_to_the_same(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        node.name = "n\\"1\\u007f"
        exposition.compat = ["dcgm"]
        exposition.zero_hold_s = 3
        budgets."nlp/bert" = { kwh = 500 }
        [rates]
        pue = 1.3
        [rates.hardware."NVIDIA H100*"]
        per_gpu_hour = 1.25
        """,
    )
    loaded = load(path, {})
    assert loaded.rates.hardware["NVIDIA H100*"].per_gpu_hour == 1.25
    assert load(written(tmp_path, loaded.describe()), {}) == loaded


def test_describe_hides_passwords_in_urls() -> None:
    environ = {"JOULEBOOK_COLLECT_URL": "postgresql://joule:hunter2@db/joule"}
    described = load(None, environ).describe()
    assert "hunter2" not in described
    assert "postgresql://***@db/joule" in described


def test_what_is_wrong_with_an_address_is_said_without_its_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, '[lab]\nurl = "https://lab:hunter2@lab/?sig=hunter2"\n')
    with pytest.raises(ConfigError, match=r"lab\.url: 'https://\*\*\*@lab") as caught:
        load(path, {})
    assert "hunter2" not in str(caught.value)
    assert main(["report", "--lab", "http://lab:hunter2@127.0.0.1:1"]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_zero_hold_follows_the_scrape_interval() -> None:
    assert Config().exposition.zero_hold() == 37.5
    environ = {"JOULEBOOK_EXPOSITION_ZERO_HOLD_S": "4"}
    assert load(None, environ).exposition.zero_hold() == 4.0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[server]\nlistne = 'x'",
            "server.listne = 'x': unknown key; did you mean server.listen?",
        ),
        (
            "[server]\ninterval_s = 3",
            "server.interval_s = 3: unknown key; did you mean daemon.interval_s?",
        ),
        (
            "[sensors.nvml]\nzzz = 1",
            "sensors.nvml.zzz = 1: unknown key; known here: enabled",
        ),
        (
            "[sensor.nvml]\nenabled = true",
            "sensor = {'nvml': {'enabled': True}}: unknown key; did you mean sensors?",
        ),
        (
            "[rates.hardware.'A B']\nfoo = 1",
            'rates.hardware."A B".foo = 1: unknown key; known here: per_gpu_hour, price, '
            "residual, life_years, utilisation",
        ),
        (
            "[daemon]\ninterval_s = 'fast'",
            "daemon.interval_s = 'fast': expected a number from 0.1 to 60",
        ),
        (
            "[daemon]\ninterval_s = true",
            "daemon.interval_s = True: expected a number from 0.1 to 60",
        ),
        (
            "[daemon]\ninterval_s = 0.01",
            "daemon.interval_s = 0.01: expected a number from 0.1 to 60",
        ),
        ("[daemon]\ninterval_s = 61", "daemon.interval_s = 61: expected a number from 0.1 to 60"),
        ("[daemon]\nsettle_s = -1", "daemon.settle_s = -1: expected a number from 0 to 600"),
        ("[daemon]\nsettle_s = nan", "daemon.settle_s = nan: expected a number from 0 to 600"),
        ("[rates.price]\nper_kwh = inf", "rates.price.per_kwh = inf: expected a number"),
        (
            "[exposition]\nscrape_interval_s = 0",
            "exposition.scrape_interval_s = 0: expected a number above 0, at most 3600",
        ),
        (
            "[exposition]\ncompat = ['node']",
            'exposition.compat = [\'node\']: expected a list, each one of "dcgm", "dcgm-hostname"',
        ),
        (
            "[ledger]\nretention_days = 1.5",
            "ledger.retention_days = 1.5: expected a whole number from 1 to 36500",
        ),
        ("[ledger]\npath = 'here.db'", "ledger.path: 'here.db': expected an absolute path"),
        ('[ledger]\npath = "/a\\u0000b"', "ledger.path = '/a\\x00b': expected text"),
        (
            "[sensors.nvml]\nenabled = 'on'",
            "sensors.nvml.enabled = 'on': expected \"auto\" or true or false",
        ),
        ("[rates]\ncurrency = 'euro'", "rates.currency = 'euro': expected text like ^[A-Z]{3}$"),
        (
            "[experiments]\nrules = ['job-name']",
            "experiments.rules: 'job-name': expected comment, wckey, job_name, owner, workload, "
            "or annotation:KEY, label:KEY, env:NAME",
        ),
        ("sensors = 3", "sensors = 3: expected a table"),
        ("budgets = 3", "budgets = 3: expected a table"),
        ("budgets.a = 3", "budgets.a = 3: expected a table"),
        (
            'budgets."/b" = { kwh = 1 }',
            'budgets."/b": expected "account/experiment", or "account" for all of an account',
        ),
        ("budgets.a = {}", 'budgets."a": expected either kwh or cost'),
        (
            "[sensors.replay]\nenabled = true",
            "sensors.replay.trace: expected the path of a trace, since replay is enabled",
        ),
        (
            "[privacy]\nusers = 'hmac'",
            'privacy.key_file: expected a path, since privacy.users = "hmac"',
        ),
        (
            "[server]\nlisten = '::9816'",
            'server.listen: \'::9816\' is not host:port, like "127.0.0.1:9816" or "[::]:9816"',
        ),
        (
            "[workloads]\ninfrastructure_selectors = ['a=b', 'in (']",
            "workloads.infrastructure_selectors: 'in (': 'in (' is not a label selector; expected "
            "key=value, key!=value, key in (a, b), key notin (a, b), key, !key, or namespace:NAME",
        ),
        (
            "[tenants.kubernetes]\nuser_key = 'env:USER'",
            "tenants.kubernetes.user_key: 'env:USER': expected annotation:KEY or label:KEY",
        ),
        (
            "[collect]\ntargets = 'postgresql://me:secret@db'",
            "collect.targets = 'postgresql://***@db': expected a list, each text",
        ),
        (
            "[calibration.GPU-1]\ngain = 1.02",
            'calibration."GPU-1".source: expected who measured it, with what and when',
        ),
        (
            "[calibration.GPU-1]\ngain = 10\nsource = 'PDU'",
            "calibration.GPU-1.gain = 10: expected a number from 0.5 to 2",
        ),
        (
            "[calibration.'*']\nsource = 'PDU'",
            'calibration."*": expected the UUID of a GPU or the name of a model',
        ),
        (
            "[collect]\ntargets = ['gpu01']",
            "collect.targets: 'gpu01': expected host:port or http(s)://host:port",
        ),
        (
            "[collect]\nurl = 'mysql://db/x'",
            "collect.url: expected sqlite:///absolute/path or postgresql://host:port/database",
        ),
        (
            "[collect]\nhttp_sd = 'ftp://x/y'",
            "collect.http_sd: 'ftp://x/y': expected http(s)://host:port/path",
        ),
        (
            "[collect]\ncert_file = '/c.pem'",
            "collect.key_file: expected together with collect.cert_file, or neither",
        ),
    ],
)
def test_what_is_refused_and_how(tmp_path: Path, text: str, line: str) -> None:
    assert refused(tmp_path, text) == [line]


@pytest.mark.parametrize(
    "text",
    [
        "[server]\ntoken = 's3cr3t'",
        "[server]\ntokne_file = 's3cr3t'",
        "[collect]\nPassword = 's3cr3t'",
        "[server.token]\nvalue = 's3cr3t'",
        "[server]\nauth = { token = 's3cr3t' }",
        "[server]\nbearer = 's3cr3t-0123456789abcdef'",
        "[server]\ntoken_file = ['s3cr3t']",
        "[rates.price]\ntoken = 's3cr3t'",
        "[daemon]\ninterval_s = 's3cr3t-0123456789abcdef'",
        "api_key = 's3cr3t'",
    ],
)
def test_what_may_be_a_secret_is_not_echoed(tmp_path: Path, text: str) -> None:
    lines = refused(tmp_path, text)
    assert lines
    assert "s3cr3t" not in "".join(lines)


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    lines = refused(
        tmp_path,
        "a = 1\n[daemon]\ninterval_s = 0\n[tenants.slurm]\napi = 1",
        {"JOULEBOOK_DAEMON_HANG_S": "long"},
    )
    assert lines == [
        "a = 1: unknown key; known here: " + ", ".join(DEFAULTS),
        "daemon.interval_s = 0: expected a number from 0.1 to 60",
        "environment variable JOULEBOOK_DAEMON_HANG_S: daemon.hang_s = 'long': "
        "expected a number above 0, at most 300",
        "tenants.slurm.api = 1: unknown key; did you mean tenants.kubernetes.api?",
    ]


def test_long_values_are_cut(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, f"[daemon]\ninterval_s = '{'x' * 500}'")
    assert len(line) < 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[server", "not TOML"),
        (b"a = '\xff'", "not UTF-8 at byte 5"),
        pytest.param(b"a." * 2_000 + b"a = 1", "nested too deeply", id="deep"),
        (None, "cannot be read"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "joulebook.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load(path, {})
    assert str(path) in str(caught.value)


def test_the_default_file_is_read_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "joulebook.toml")
    assert load(None, {}) == Config()
    written(tmp_path, "node.cluster = 'lab'")
    assert load(None, {}).node.cluster == "lab"


def test_environment_goes_over_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path, "[daemon]\ninterval_s = 2\nsettle_s = 1\n[sensors.nvml]\nenabled = true"
    )
    loaded = load(
        path,
        {
            "JOULEBOOK_DAEMON_INTERVAL_S": " 0.5 ",
            "JOULEBOOK_SENSORS_NVML_ENABLED": "False",
            "JOULEBOOK_SENSORS_RAPL_ENABLED": "auto",
            "JOULEBOOK_TENANTS_SLURM_EVENTS_DIR": "/run/jobs",
            "JOULEBOOK_LEDGER_RETENTION_DAYS": "30",
            "JOULEBOOK_EXPOSITION_COMPAT": "dcgm",
            "JOULEBOOK_COLLECT_TARGETS": '["a:1", "b:2"]',
            "JOULEBOOK_COLLECT_FILE_SD": "a.json, b.json,",
            "JOULEBOOK_NODE_NAME": "true",
        },
    )
    assert loaded.daemon == DaemonSection(interval_s=0.5, settle_s=1.0)
    assert loaded.sensors.nvml.enabled is False
    assert loaded.sensors.rapl.enabled == "auto"
    assert loaded.tenants.slurm.events_dir == "/run/jobs"
    assert loaded.ledger.retention_days == 30
    assert loaded.exposition.compat == ("dcgm",)
    assert loaded.collect.targets == ("a:1", "b:2")
    assert loaded.collect.file_sd == ("a.json", "b.json")
    assert loaded.node.name == "true"


@pytest.mark.parametrize("value", ["on", "yes", "2", ""])
def test_environment_booleans_that_are_none(value: str) -> None:
    with pytest.raises(ConfigError, match="JOULEBOOK_SENSORS_NVML_ENABLED"):
        load(None, {"JOULEBOOK_SENSORS_NVML_ENABLED": value})
    with pytest.raises(ConfigError, match="JOULEBOOK_LEDGER_ALLOW_VOLATILE"):
        load(None, {"JOULEBOOK_LEDGER_ALLOW_VOLATILE": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOULEBOOK_NODE_NAME", "n\udcff"),
        ("JOULEBOOK_DAEMON_INTERVAL_S", "1e400"),
        ("JOULEBOOK_COLLECT_TARGETS", "[a"),
    ],
)
def test_hostile_environment(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load(None, {name: value})


def test_environment_under_a_file_that_is_wrong_there(tmp_path: Path) -> None:
    lines = refused(tmp_path, "sensors = 3", {"JOULEBOOK_SENSORS_NVML_ENABLED": "true"})
    assert lines == ["sensors = 3: expected a table"]


def test_a_conflict_names_the_variable_that_made_it() -> None:
    with pytest.raises(ConfigError, match=r"^environment variable JOULEBOOK_SERVER_LISTEN: server"):
        load(None, {"JOULEBOOK_SERVER_LISTEN": "nowhere"})


def test_what_others_put_into_the_environment_is_ignored() -> None:
    environ = {
        "JOULEBOOK_PORT": "tcp://10.0.0.1:9816",
        "JOULEBOOK_PORT_9816_TCP_ADDR": "10.0.0.1",
        "JOULEBOOK_SERVICE_HOST": "10.0.0.1",
        "JOULEBOOK_SERVICE_PORT": "9816",
        "JOULEBOOK_SERVER_PORT": "tcp://10.0.0.2:1",
        "JOULEBOOK_LEDGER_SERVICE_HOST": "10.0.0.3",
        "JOULEBOOK_EXPERIMENT": "bert",
        "joulebook_node_name": "x",
    }
    assert load(None, environ) == Config()


def test_no_name_that_is_read_is_one_that_kubernetes_makes() -> None:
    names = env_names()
    assert len(set(names.values())) == len(names)
    assert "JOULEBOOK_EXPERIMENT" not in names
    for name in names:
        assert not name.endswith(("_PORT", "_SERVICE_HOST", "_TCP", "_PROTO", "_ADDR")), name


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9816", ("127.0.0.1", 9816)),
        ("[::]:9816", ("::", 9816)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        (":0", ("", 0)),
        ("node-1.lab:80", ("node-1.lab", 80)),
    ],
)
def test_listen(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9816",
        "host",
        "host:",
        "host:http",
        "a:65536",
        "::1:80",
        "[::g]:1",
        "[1]:1",
        "a b:1",
        "a:٣",
    ],
)
def test_listen_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_listen(text)


def test_a_ledger_named_in_the_environment_is_where_the_caller_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = load(None, {"JOULEBOOK_LEDGER_PATH": ".build/demo/ledger.db"})
    assert found.ledger.path == str(tmp_path / ".build/demo/ledger.db")
    file = tmp_path / "joulebook.toml"
    file.write_text('[ledger]\npath = "relative.db"\n')
    with pytest.raises(ConfigError, match="expected an absolute path"):
        load(file, {})


def test_a_variable_that_is_misspelt_is_named() -> None:
    said = misspelt({"JOULEBOOK_LEDGER_PTH": "x", "JOULEBOOK_XYZZY": "1", "PATH": "/bin"})
    assert said == [
        "JOULEBOOK_LEDGER_PTH: no such setting; did you mean JOULEBOOK_LEDGER_PATH?",
        "JOULEBOOK_XYZZY: no such setting",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOULEBOOK_PORT", "9816"),
        ("JOULEBOOK_SERVER_PORT", "9816"),
        ("JOULEBOOK_EXPERIMNT", "bert"),
        ("JOULEBOOK_PORTS_9816", "x"),
        ("JOULEBOOK_SERVICE_HOSTS", "x"),
        ("JOULEBOOK_MARKSDIR", "/x"),
    ],
)
def test_what_only_looks_like_what_others_set_is_named(name: str, value: str) -> None:
    (said,) = misspelt({name: value})
    assert said.startswith(f"{name}: no such setting")


def test_everything_that_the_hooks_set_or_read_is_known(repository: Path) -> None:
    hooks = (repository / "exporter/joulebook/hooks").glob("*.sh")
    named = {name for path in hooks for name in re.findall(r"JOULEBOOK_[A-Z_]+", path.read_text())}
    assert len(named) > 2
    assert misspelt(dict.fromkeys(named, "x")) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOULEBOOK_LEDGER_PATH", "/x"),
        ("JOULEBOOK_EXPERIMENT", "bert"),
        ("JOULEBOOK_STAGE", "eval"),
        ("JOULEBOOK_MARKS_DIR", "/run/x"),
        ("JOULEBOOK_EVENTS_DIR", "/run/x"),
        ("JOULEBOOK_PASSWORD", "x"),
        ("JOULEBOOK_URL", "http://n1:9816"),
        ("JOULEBOOK_LAB_TOKEN", "x"),
        ("JOULEBOOK_LAB_URL", "http://lab:9817"),
        ("JOULEBOOK_RATES_PRICE_TOKEN", "x"),
        ("JOULEBOOK_SERVICE_HOST", "10.0.0.1"),
        ("JOULEBOOK_SERVICE_PORT", "9816"),
        ("JOULEBOOK_SERVICE_PORT_METRICS", "9816"),
        ("JOULEBOOK_COLLECTOR_SERVICE_HOST", "10.0.0.1"),
        ("JOULEBOOK_PORT", "tcp://10.0.0.1:9816"),
        ("JOULEBOOK_LAB_PORT", "tcp://10.0.0.1:9817"),
        ("JOULEBOOK_LAB_SERVICE_PORT_HTTP_METRICS", "9816"),
        ("JOULEBOOK_PORT_9816_TCP_PROTO", "tcp"),
        ("JOULEBOOK_PORT", "udp://10.0.0.1:9816"),
        ("JOULEBOOK_PORT_9816_TCP", "tcp://10.0.0.1:9816"),
        ("JOULEBOOK_PORT_9816_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_what_others_set_is_no_slip_of_the_pen(name: str, value: str) -> None:
    assert misspelt({name: value}) == []
