"""The chart as real helm renders it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from tests.command_line import parsed

from joulebook.config import Config, env_names, load
from joulebook.rates.sources import CARBON_TOKEN, PRICE_TOKEN

CHART = Path(__file__).resolve().parents[2] / "helm" / "joulebook"

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
"""Values for the kinds of cluster that the documentation names."""

Object = dict[str, Any]
Objects = dict[tuple[str, str], Object]

EVERYTHING: Object = {
    "cluster": "lab",
    "image": {"repository": "registry.example/joulebook", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "pull"}],
    "hostPID": True,
    "priorityClass": {"create": True},
    "podSecurityContext": {"seLinuxOptions": {"type": "spc_t"}},
    "web": {"tlsSecretName": "tls", "users": {"prometheus": "$2y$10$" + "a" * 53}},
    "networkPolicy": {
        "enabled": True,
        "from": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ],
    },
    "serviceMonitor": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "relabelings": [{"targetLabel": "site", "replacement": "north"}],
        "tlsConfig": {"insecureSkipVerify": True},
        "basicAuth": {
            "username": {"name": "scrape", "key": "username"},
            "password": {"name": "scrape", "key": "password"},
        },
    },
    "prometheusRule": {"enabled": True},
    "dashboards": {"enabled": True, "users": {"enabled": True}},
    "podLogs": {"enabled": True},
    "handover": {"tokenSecretName": "token"},
    "lab": {
        "enabled": True,
        "caSecretName": "tls",
        "publicUrl": "https://joules.example.org",
        "feedTokenSecretName": "t",
        "urlSecretName": "postgresql",
        "replicas": 2,
        "config": '[rates]\ncurrency = "EUR"\n[rates.price]\nkind = "energy-charts"\n'
        'zone = "DE-LU"\n[lab]\nadmins = ["ada"]\n',
    },
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "extraArgs": ["--compat", "dcgm"],
    "podLabels": {"team": "hpc"},
    "podAnnotations": {"note": "a"},
}
"""Every part of the chart at once."""

POD_MONITOR: Object = {
    **EVERYTHING,
    "serviceMonitor": {"enabled": False},
    "podMonitor": EVERYTHING["serviceMonitor"],
}
"""The same by a PodMonitor."""

OLDER: Object = {
    **{key: EVERYTHING[key] for key in ("handover", "serviceMonitor", "networkPolicy", "web")},
    "ratesService": {
        "enabled": True,
        "port": 9900,
        "config": '[rates]\n[rates.price]\nkind = "energy-charts"\nzone = "DE-LU"\n',
        "tokenSecret": "t",
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "nodeSelector": {"pool": "infra"},
    },
    "collector": {
        "enabled": True,
        "port": 9901,
        "caSecretName": "tls",
        "storage": {"size": "20Gi"},
        "config": '[rates]\ncurrency = "EUR"\n[rates.price]\nkind = "server"\n'
        'url = "http://lab-joulebook-rates:9900"\n[rates.carbon]\nkind = "server"\n'
        'url = "http://lab-joulebook-rates:9900"\n[collect]\nevery_s = 60\n',
    },
}
"""Collector and rates service by the names that they had as deployments of their own."""

NOTHING: Object = {
    "ledger": {"enabled": False},
    "kubelet": {"enabled": False},
    "hostSys": {"enabled": False},
    "hostProc": {"enabled": False},
    "kubernetesApi": {"enabled": False},
    "nvidia": {"access": "none"},
    "serviceAccount": {"create": False},
    "gpuNodeLabels": None,
    "tolerations": [],
}
"""Every mount and right off."""

MATRIX: dict[str, Object] = {
    "plain": {},
    "everything": EVERYTHING,
    "pod-monitor": POD_MONITOR,
    "older-names": OLDER,
    "older-rates": {"ratesService": OLDER["ratesService"]},
    "nothing": NOTHING,
    **{path.stem: yaml.safe_load(path.read_text()) for path in EXAMPLES},
}
"""Values for every kind of cluster."""


def run(binary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call helm."""
    return subprocess.run(
        [str(binary), *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def rendered(
    binary: Path,
    *arguments: str,
    values: Object | None = None,
    chart: Path = CHART,
    release: str = "lab",
) -> Objects:
    """The objects by kind and name; `values` come after those that `arguments` name."""
    command = [str(binary), "template", release, str(chart), "--namespace", "energy", *arguments]
    if values is not None:
        command += ["--values", "-"]
    done = subprocess.run(
        command,
        input=yaml.safe_dump(values or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]
    by_name = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    assert len(by_name) == len(objects), "no object twice"
    return by_name


def kinds(objects: Objects) -> set[str]:
    """What kinds of object there are."""
    return {kind for kind, _ in objects}


def the(objects: Objects, kind: str) -> Object:
    """The only object of a kind."""
    (found,) = (each for (of, _), each in objects.items() if of == kind)
    return found


def daemon(objects: Objects) -> tuple[Object, Object]:
    """The daemon's pod and its container."""
    pod: Object = the(objects, "DaemonSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def configured(objects: Objects, scratch: Path) -> Iterator[tuple[str, Config]]:
    """What each container that runs joulebook makes of its variables, arguments and file."""
    for each in objects.values():
        pod = each["spec"]["template"]["spec"] if "template" in each.get("spec", {}) else {}
        for container in pod.get("containers", []):
            ours = {one["name"] for one in container["env"] if one["name"].startswith("JOULEBOOK_")}
            assert ours <= {*env_names(), PRICE_TOKEN, CARBON_TOKEN}
            args = parsed(*container["args"])
            volumes = {one["name"]: one for one in pod["volumes"]}
            (mounted,) = (
                volumes[mount["name"]]["configMap"]["name"]
                for mount in container["volumeMounts"]
                if Path(mount["mountPath"]) == args.config.parent
            )
            file = scratch / f"{container['name']}.toml"
            file.write_text(objects["ConfigMap", mounted]["data"][args.config.name])
            yield container["name"], load(file, environment(container))


def environment(container: Object) -> dict[str, str]:
    """Variables with a literal value."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}
