"""The names that others build on: metrics, keys, commands, pages, words, the event file.

Dashboards, charts, hooks and tests outside this repository rely on them. They are written out here
a second time on purpose: what changes one of them breaks somebody, and is to be done on purpose.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.command_line import parsed
from tests.unit.metrics import sample

from joulebook import cli
from joulebook.config import env_names, load
from joulebook.config.load import read
from joulebook.config.rates import CarbonSection, Price
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Method, Remainder
from joulebook.core.ledger.export import PATH
from joulebook.lab.serving.metrics import SERVING
from joulebook.metrics import dcgm
from joulebook.metrics.catalogue import BY_NAME
from joulebook.metrics.exposition import Exposition
from joulebook.node.workloads.slurm.event_file import decode_event, event_stem
from joulebook.server.routes import OPEN_PATHS

GPU = "gpu uuid"
EXPERIMENT = "user account experiment"
WORKLOAD = f"scheduler workload {EXPERIMENT}"

METRICS = {
    "gpu_info": ("gauge", f"{GPU} vendor model driver pci mig"),
    "gpu_held_ratio": ("gauge", f"{GPU} {WORKLOAD}"),
    "gpu_peak_flops": ("gauge", f"{GPU} precision source"),
    "gpu_power_watts": ("gauge", GPU),
    "gpu_power_limit_watts": ("gauge", GPU),
    "gpu_utilization_ratio": ("gauge", GPU),
    "gpu_memory_utilization_ratio": ("gauge", GPU),
    "gpu_encoder_utilization_ratio": ("gauge", GPU),
    "gpu_decoder_utilization_ratio": ("gauge", GPU),
    "gpu_memory_used_bytes": ("gauge", GPU),
    "gpu_memory_total_bytes": ("gauge", GPU),
    "gpu_temperature_celsius": ("gauge", GPU),
    "gpu_sm_clock_hertz": ("gauge", GPU),
    "gpu_memory_clock_hertz": ("gauge", GPU),
    "gpu_throttle_seconds_total": ("counter", f"{GPU} reason"),
    "meter_energy_joules_total": ("counter", "component meter"),
    "workload_energy_joules_total": ("counter", f"{WORKLOAD} component"),
    "workload_idle_energy_joules_total": ("counter", f"{WORKLOAD} component"),
    "workload_power_watts": ("gauge", f"{WORKLOAD} component"),
    "workload_gpu_seconds_total": ("counter", WORKLOAD),
    "workload_cost_total": ("counter", f"{WORKLOAD} kind currency"),
    "workload_co2e_grams_total": ("counter", WORKLOAD),
    "workload_info": (
        "gauge",
        "scheduler workload name partition image array gpu_count gpu_model evidence",
    ),
    "pending_energy_joules": ("gauge", "component"),
    "experiment_energy_joules_total": ("counter", f"{EXPERIMENT} component"),
    "experiment_idle_energy_joules_total": ("counter", f"{EXPERIMENT} component"),
    "experiment_gpu_seconds_total": ("counter", EXPERIMENT),
    "experiment_cost_total": ("counter", f"{EXPERIMENT} kind currency"),
    "experiment_co2e_grams_total": ("counter", EXPERIMENT),
    "remainder_energy_joules_total": ("counter", "component reason"),
    "remainder_cost_total": ("counter", "reason kind currency"),
    "remainder_co2e_grams_total": ("counter", "reason"),
    "foreign_use_seconds_total": ("counter", "component meter scheduler workload"),
    "evidence_energy_joules_total": ("counter", "evidence"),
    "method_energy_joules_total": ("counter", "method"),
    "budget": ("gauge", "account experiment unit"),
    "overflow_total": ("counter", "source reason"),
    "rejected_inputs_total": ("counter", "source reason"),
    "gap_seconds_total": ("counter", "component meter reason"),
    "electricity_price_per_kwh": ("gauge", "currency source"),
    "carbon_intensity_grams_per_kwh": ("gauge", "zone source"),
    "pue_ratio": ("gauge", "source"),
    "sensor_up": ("gauge", "sensor kind"),
    "sensor_errors_total": ("counter", "sensor kind reason"),
    "sensor_last_success_timestamp_seconds": ("gauge", "sensor kind"),
    "tick_duration_seconds": ("gauge", ""),
    "build_info": ("gauge", "version revision python"),
}

EVERY_KEY = """
[node]
name = "n1"
cluster = "c1"
[daemon]
interval_s = 1.0
commit_s = 10
settle_s = 3.0
[server]
listen = "127.0.0.1:9816"
web_config = ""
token_file = ""
[ledger]
path = "/var/lib/joulebook/ledger.db"
retention_days = 400
allow_volatile = false
[exposition]
scrape_interval_s = 15
zero_hold_s = 37.5
linger_s = 900
max_experiments = 1000
max_workloads = 500
compat = []
[sensors.nvml]
enabled = "auto"
[sensors.rapl]
enabled = "auto"
root = "/sys/class/powercap"
[sensors.hwmon]
enabled = "auto"
root = "/sys/class/hwmon"
[sensors.ipmi]
enabled = false
[sensors.redfish]
enabled = false
[sensors.model]
enabled = false
[sensors.replay]
enabled = false
trace = ""
[tenants.slurm]
enabled = "auto"
events_dir = "/run/joulebook/jobs"
cgroup_root = "/sys/fs/cgroup"
hpc_job_mapping_dir = ""
gpustat_dir = ""
[tenants.kubernetes]
enabled = "auto"
pod_resources = "/var/lib/kubelet/pod-resources/kubelet.sock"
api = true
[tenants.processes]
enabled = "auto"
[experiments]
rules = ["comment", "env:JOULEBOOK_EXPERIMENT", "job_name"]
[workloads]
infrastructure_selectors = ["namespace:kube-system"]
[budgets]
"nlp/bert" = { kwh = 500 }
"vision/resnet" = { cost = 1000 }
[privacy]
users = "plain"
key_file = ""
[collect]
targets = ["node1:9816"]
file_sd = ["/etc/joulebook/nodes.json"]
http_sd = ""
kubernetes = false
token_file = ""
url = "sqlite:////var/lib/joulebook/lab.db"
[rates]
currency = "EUR"
zone = "DE"
pue = 1.3
[rates.price]
kind = "constant"
per_kwh = 0.20
[rates.carbon]
kind = "constant"
grams_per_kwh = 400
[rates.hardware."NVIDIA H100*"]
per_gpu_hour = 1.25
[rates.hardware."NVIDIA A100*"]
price = 9000
residual = 500
life_years = 4
utilisation = 0.8
"""

ENVIRONMENT = {
    "JOULEBOOK_NODE_NAME": "n2",
    "JOULEBOOK_DAEMON_INTERVAL_S": "2",
    "JOULEBOOK_SERVER_LISTEN": ":9000",
    "JOULEBOOK_LEDGER_PATH": "/tmp/ledger.db",
    "JOULEBOOK_LEDGER_ALLOW_VOLATILE": "true",
    "JOULEBOOK_EXPOSITION_COMPAT": "dcgm",
    "JOULEBOOK_SENSORS_NVML_ENABLED": "false",
    "JOULEBOOK_SENSORS_REPLAY_TRACE": "a100",
    "JOULEBOOK_TENANTS_SLURM_EVENTS_DIR": "/run/jobs",
    "JOULEBOOK_TENANTS_KUBERNETES_POD_RESOURCES": "/run/kubelet.sock",
    "JOULEBOOK_PRIVACY_USERS": "none",
    "JOULEBOOK_COLLECT_URL": "postgresql://db/lab",
    "JOULEBOOK_RATES_PUE": "1.2",
    "JOULEBOOK_RATES_PRICE_PER_KWH": "0.3",
    "JOULEBOOK_RATES_CARBON_GRAMS_PER_KWH": "300",
}

COMMANDS = "run release top job report leaderboard collect rates record replay doctor"

ROOMS = (
    "units core.energy.readings core.energy.intervals core.attribution.claims core.attribution.gpu "
    "core.ledger.advance core.money.rates core.report.rollup node.sensors.contract "
    "node.sensors.nvidia.api node.sensors.nvidia.sensor node.sensors.rapl node.sensors.hwmon "
    "node.sensors.trace.player node.workloads.contract node.workloads.host.cgroup_paths "
    "node.workloads.slurm node.workloads.processes rates.contract rates.tariff ledger.sqlite "
    "metrics.catalogue metrics.collector metrics.dcgm server.server config errors log "
    "node.assembly.node cli"
)


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name: str) -> None:
    metric = BY_NAME[f"joulebook_{name}"]
    kind, labels = METRICS[name]
    assert (metric.kind.value, set(metric.labels)) == (kind, set(labels.split()))


def test_metrics_of_dcgm_exporter() -> None:
    names = {metric.name for metric in dcgm.METRICS}
    assert names >= {
        f"DCGM_FI_DEV_{name}"
        for name in ("POWER_USAGE", "TOTAL_ENERGY_CONSUMPTION", "GPU_UTIL", "FB_USED")
    }


def test_node_and_cluster_stand_on_every_sample_of_ours() -> None:
    text = scrape()
    samples = [line for line in text.splitlines() if line.startswith(("joulebook_", "process_"))]
    assert len(samples) > 50
    assert [line for line in samples if '{cluster="lab",node="node-1"' not in line] == []


def test_every_metric_is_really_shown_with_its_labels() -> None:
    shown = {
        family.name: {label for s in family.samples for label in s.labels} - {"node", "cluster"}
        for family in text_string_to_metric_families(scrape())
    }
    for name, (_, labels) in METRICS.items():
        assert shown[f"joulebook_{name}".removesuffix("_total")] == set(labels.split()), name


def scrape() -> str:
    exposition = Exposition(
        sample.small_view(), lambda: (True, ""), lambda: (True, ""), on_error=lambda *_: None
    )
    return exposition.metrics()[0].decode()


def test_words() -> None:
    assert {each.value for each in Remainder} == {
        "unallocated", "system", "daemon_down", "unknown_holder", "counter_reset",
    }  # fmt: skip
    assert {each.value for each in Method} == {"counter", "integrated", "modelled", "apportioned"}
    assert {each.value for each in Component} == {"gpu", "cpu", "dram", "other"}


def test_every_key_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "joulebook.toml"
    path.write_text(EVERY_KEY)
    config = load(path, {})
    assert config.rates.pue == 1.3
    assert config.budgets["nlp/bert"].kwh == 500


def test_kinds_of_rates() -> None:
    for kind in ("constant", "schedule", "csv", "energy-charts", "entsoe", "server"):
        assert read(Price, {"kind": kind}, "").kind == kind
    for kind in (
        "constant", "country", "csv", "electricity-maps", "neso", "energy-charts", "server",
    ):  # fmt: skip
        assert read(CarbonSection, {"kind": kind}, "").kind == kind


def test_the_environment_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "joulebook.toml"
    path.write_text(EVERY_KEY)
    config = load(path, ENVIRONMENT)
    for variable, text in ENVIRONMENT.items():
        value: object = config
        for name in env_names()[variable]:
            value = getattr(value, name)
        assert str(value).lower().strip("(),'") in {text, f"{text}.0"}, variable
    # A Service of that name, and the researcher's.
    for other in ("JOULEBOOK_PORT", "JOULEBOOK_SERVICE_HOST", "JOULEBOOK_EXPERIMENT"):
        assert other not in env_names()


def test_commands() -> None:
    assert set(COMMANDS.split()) <= cli.COMMANDS.keys()
    for words in (
        "run --demo", "run --compat dcgm", "--config f run", "run --config f", "release --for 10m",
        "job 1234", "job 101_7", "job 101.r1", "report --experiment x", "top", "doctor",
        "record trace.gz", "replay a100", "rates", "collect", "leaderboard",
    ):  # fmt: skip
        parsed(*words.split())
    assert (cli.FAILED, cli.USAGE, cli.INTERRUPTED) == (1, 2, 130)


@pytest.mark.parametrize("room", ROOMS.split())
def test_layout(room: str) -> None:
    importlib.import_module(f"joulebook.{room}")


def test_event_files_of_the_hooks() -> None:
    """What sites with a Prolog of their own write."""
    event = decode_event(
        b'{"v":1,"scheduler":"slurm","job_id":"101","restart_count":0,"gpus":["0","GPU-uuid"],'
        b'"user":"ada","uid":1000,"account":"nlp","partition":"a100",'
        b'"comment":"experiment=bert-base","start_ns":1764000000000000000,'
        b'"gpu_ids":"minor","end_ns":1764000001000000000}'
    )
    assert (event.job_id, event.gpus, event.uid) == ("101", ("0", "GPU-uuid"), 1000)
    assert event_stem("101.0.json") == ("101.0", False)
    assert event_stem("101.0.end") == ("101.0", True)


def test_pages() -> None:
    assert {"/healthz", "/readyz"} == OPEN_PATHS, "a scrape never depends on them"
    assert PATH == "/v1/postings"


def test_names_of_served_models_are_those_of_the_contract() -> None:
    shown = {metric.name: (str(metric.kind), metric.labels) for metric in SERVING}
    of = ("cluster", "account", "experiment", "model_name")  # `cluster`: where a node has one
    assert shown["joulebook_serving_tokens_total"] == ("counter", (*of, "kind"))
    assert shown["joulebook_serving_requests_total"] == ("counter", of)
    assert all(metric.sparse and metric.bare for metric in SERVING)
    assert not {"job", "instance", "pod", "namespace"} & {
        label for metric in SERVING for label in metric.labels
    }
