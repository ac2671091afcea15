"""What the chart asks of a cluster, rendered by real helm of both major versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.command_line import parsed
from tests.integration.chart import (
    CHART,
    EVERYTHING,
    EXAMPLES,
    MATRIX,
    NOTHING,
    OLDER,
    Object,
    Objects,
    configured,
    daemon,
    environment,
    kinds,
    rendered,
    run,
    the,
)
from tests.integration.helm import PACKAGES, helm

from joulebook.config import Config, env_names, load


@pytest.fixture(scope="module", params=sorted(PACKAGES))
def binary(request: pytest.FixtureRequest, build_dir: Path) -> Path:
    return helm(request.param, build_dir)


def test_lints(binary: Path, tmp_path: Path) -> None:
    everything = tmp_path / "everything.yaml"
    everything.write_text(yaml.safe_dump(EVERYTHING))
    for values in (None, everything, *EXAMPLES):
        done = run(binary, "lint", "--strict", str(CHART), *(["-f", str(values)] if values else []))
        assert done.returncode == 0, done.stdout + done.stderr


def test_renders_what_a_node_needs(binary: Path) -> None:
    objects = rendered(binary)
    assert kinds(objects) == {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
        "Pod",
        "Service",
        "ServiceAccount",
    }
    pod, container = daemon(objects)
    assert pod["enableServiceLinks"] is False
    assert "hostPID" not in pod
    assert pod["serviceAccountName"] == the(objects, "ServiceAccount")["metadata"]["name"]
    assert container["image"] == "joulebook:0.1.0"
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    paths = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    assert paths == {
        "ledger": "/var/lib/joulebook",
        "pod-resources": "/var/lib/kubelet/pod-resources",
        "host-sys-class": "/sys/class",
        "host-sys-devices": "/sys/devices",
        "host-sys-cgroup": "/sys/fs/cgroup",
        "host-proc": "/proc",
    }
    assert environment(container)["JOULEBOOK_HOST_PROC"] == "/host/proc"
    writable = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"ledger", "tmp"}
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}


def test_what_is_mounted_below_a_folder_of_the_node_is_read_only_too(binary: Path) -> None:
    """Uid 0 could write to cgroups and to binfmt_misc without any capability."""

    def deep(version: str) -> set[str]:
        _, container = daemon(rendered(binary, "--kube-version", version))
        return {m["name"] for m in container["volumeMounts"] if "recursiveReadOnly" in m}

    assert deep("1.30.0") == {
        *("host-sys-class", "host-sys-devices", "host-sys-cgroup"),
        "host-proc",
    }
    assert deep("1.34.1-gke.1000000") == deep("1.30.0")
    assert not deep("1.29.9-eks-abcdef"), "a word that these do not know"


def test_marks_are_mounted_with_the_pid_namespace_that_they_need(binary: Path) -> None:
    _, container = daemon(rendered(binary))
    assert environment(container)["JOULEBOOK_MARKS_ENABLED"] == "false"
    pod, container = daemon(rendered(binary, values={"hostPID": True}))
    assert "JOULEBOOK_MARKS_ENABLED" not in environment(container)
    (run_,) = (v for v in pod["volumes"] if v["name"] == "run")
    assert run_["hostPath"] == {"path": "/run/joulebook", "type": "DirectoryOrCreate"}
    assert {"name": "run", "mountPath": "/run/joulebook"} in container["volumeMounts"]
    assert Config().marks.dir.startswith("/run/joulebook/")


def test_variables_of_the_users_win_and_no_name_stands_twice(binary: Path) -> None:
    """Server-side apply refuses a list in which a name stands twice; helm 4 does that."""
    own = [
        {"name": "JOULEBOOK_TENANTS_SLURM_ENABLED", "value": "true"},
        {"name": "A", "value": "b"},
    ]
    values = {
        **EVERYTHING,
        "extraEnv": own,
        "lab": {**EVERYTHING["lab"], "extraEnv": [{"name": "JOULEBOOK_COLLECT_LISTEN"}]},
    }
    objects = rendered(binary, values=values)
    _, container = daemon(objects)
    assert container["env"][-2:] == own
    for each in objects.values():
        pod = each.get("spec", {}).get("template", each).get("spec", {})
        assert len({v["name"] for v in pod.get("volumes", [])}) == len(pod.get("volumes", []))
        for one in pod.get("containers", []):
            for key, name in (("env", "name"), ("volumeMounts", "mountPath"), ("ports", "name")):
                names = [entry[name] for entry in one.get(key, [])]
                assert sorted(set(names)) == sorted(names)


def test_no_name_is_too_long_or_read_as_a_number(binary: Path) -> None:
    for release, namespace in (("x" * 53, "n" * 63), ("1234", "1e3")):
        values = {**EVERYTHING, "fullnameOverride": "" if release.startswith("x") else "j"}
        objects = rendered(binary, "--namespace", namespace, values=values, release=release)
        for (kind, name), each in objects.items():
            assert isinstance(name, str)
            assert len(name) <= (63 if kind in {"Service", "Pod", "DaemonSet"} else 253)
            meta = each["metadata"]
            assert meta.get("namespace", namespace) == namespace
            labels = [
                *meta["labels"].values(),
                *each.get("spec", {}).get("template", each)["metadata"]["labels"].values(),
            ]
            assert all(isinstance(value, str) and len(value) <= 63 for value in labels)
            if kind in {"Deployment", "DaemonSet"}:
                assert len(f"{name}-7d9c8b6f5d-abcde") <= 253
    subject = the(objects, "ClusterRoleBinding")["subjects"][0]
    assert subject["namespace"] == "1e3"


def test_pods_that_need_no_card_run_wherever_linux_does(binary: Path) -> None:
    objects = rendered(
        binary,
        values={
            **EVERYTHING,
            "lab": {**EVERYTHING["lab"], "nodeSelector": {"pool": "infra"}},
            "tolerations": [{"key": "all-nodes-have-it", "operator": "Exists"}],
        },
    )
    lab = the(objects, "Deployment")["spec"]["template"]["spec"]
    assert lab["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "infra"}
    # Where every node is tainted, the pod of `helm test` must run nevertheless.
    tester = objects["Pod", "lab-joulebook-test"]["spec"]
    assert tester["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert tester["tolerations"] == [{"key": "all-nodes-have-it", "operator": "Exists"}]
    assert the(objects, "DaemonSet")["spec"]["template"]["spec"]["tolerations"]


def test_examples_need_no_operator_but_that_of_the_cards(binary: Path) -> None:
    """A cluster without the Prometheus operator's CRDs refuses an object of theirs."""
    for example in EXAMPLES:
        objects = rendered(binary, "--values", str(example))
        assert {each["apiVersion"] for each in objects.values()} <= {
            *("v1", "apps/v1", "rbac.authorization.k8s.io/v1", "scheduling.k8s.io/v1")
        }, example.name


def test_asks_for_gpu_nodes_and_endures_their_taints(binary: Path) -> None:
    pod, container = daemon(rendered(binary))
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms = [term["matchExpressions"][0] for term in required["nodeSelectorTerms"]]
    assert {"key": "nvidia.com/gpu.present", "operator": "In", "values": ["true"]} in terms
    assert {"key": "cloud.google.com/gke-accelerator", "operator": "Exists"} in terms
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in pod["tolerations"]
    # A daemon that asked for a GPU would take it from a job.
    assert not any("gpu" in name for name in container["resources"]["limits"])
    own = rendered(binary, values={"affinity": {"podAffinity": {}}})
    assert daemon(own)[0]["affinity"] == {"podAffinity": {}}


def test_may_read_pods_and_resource_slices_and_nothing_else(binary: Path) -> None:
    granted = {
        (group, resource, verb)
        for rule in the(rendered(binary), "ClusterRole")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {
        (group, resource, verb)
        for group, resource in (("", "pods"), ("resource.k8s.io", "resourceslices"))
        for verb in ("get", "list", "watch")
    }


def test_every_mount_and_right_can_be_switched_off(binary: Path) -> None:
    objects = rendered(binary, values=NOTHING)
    assert kinds(objects) == {"ConfigMap", "DaemonSet", "Pod", "Service"}
    pod, container = daemon(objects)
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
    assert pod["automountServiceAccountToken"] is False
    assert "affinity" not in pod
    variables = environment(container)
    assert variables["JOULEBOOK_LEDGER_ALLOW_VOLATILE"] == "true"
    assert variables["JOULEBOOK_TENANTS_KUBERNETES_ENABLED"] == "false"
    assert variables["JOULEBOOK_SENSORS_NVML_ENABLED"] == "false"


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_programs_know_every_variable_argument_and_key(
    binary: Path, values: Object, tmp_path: Path
) -> None:
    """Of every container that runs joulebook: what it is given is loaded as it would load it."""
    objects = rendered(binary, values=values)
    loaded = {name: config for name, config in configured(objects, tmp_path)}
    assert loaded["joulebook"].server.listen == ":9816"
    assert loaded["joulebook"].daemon.wait_for_sensors
    assert loaded.keys() == {
        "joulebook",
        *(["lab"] if {"lab", "ratesService", "collector"} & values.keys() else []),
    }
    if "lab" in loaded:
        assert loaded["lab"].rates.price.kind == "energy-charts"


def test_every_key_says_what_is_lost_without_it() -> None:
    """What each mount and right is for stands in values.yaml, above its switch."""
    text = (CHART / "values.yaml").read_text()
    for switch in (
        *("ledger", "kubelet", "hostSys", "podLogs", "hostProc", "hostPID", "kubernetesApi"),
        *("rbac", "prometheusRule", "lab"),
    ):
        block = re.search(rf"((?:^ *#.*\n)*)^{switch}:(.*\n(?:^ .*\n)*)", text, re.MULTILINE)
        assert block, switch
        assert re.search(r"\bOff:", block[0]), switch


def lab_pod(objects: Objects) -> tuple[Object, dict[str, str]]:
    """The lab server's pod, and the variables of its only container."""
    pod: Object = the(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, environment(container)


LAB: Object = {"lab": {"enabled": True}, "handover": {"tokenSecretName": "token"}}


def test_the_lab_server_may_list_the_daemons_addresses_and_nothing_else(binary: Path) -> None:
    objects = rendered(binary, values=LAB)
    assert the(objects, "Role")["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        }
    ]
    pod, variables = lab_pod(objects)
    service = objects["Service", variables["JOULEBOOK_COLLECT_KUBERNETES_SERVICE"]]["spec"]
    assert variables["JOULEBOOK_COLLECT_KUBERNETES_PORT_NAME"] in {
        port["name"] for port in service["ports"]
    }
    assert variables.keys() <= env_names().keys()
    (container,) = pod["containers"]
    parsed(*container["args"])
    config = load(None, variables)
    assert config.collect.kubernetes is True
    assert (config.lab.listen, config.collect.listen) == (":9817", ":9818")
    assert "JOULEBOOK_COLLECT_SERVER_NAME" not in variables
    assert container["securityContext"]["runAsNonRoot"] is True
    kept = the(objects, "PersistentVolumeClaim")["metadata"]["annotations"]
    assert kept["helm.sh/resource-policy"] == "keep"
    # The same token on both sides.
    node, _ = daemon(objects)
    for each in (pod, node):
        (token,) = (v["secret"]["secretName"] for v in each["volumes"] if v["name"] == "token")
        assert token == "token"
    assert environment(daemon(objects)[1])["JOULEBOOK_SERVER_TOKEN_FILE"].endswith("/token")

    by_hand = {**LAB, "lab": {"enabled": True, "discovery": False, "urlSecretName": "pg"}}
    objects = rendered(binary, values=by_hand)
    assert not {"Role", "RoleBinding", "PersistentVolumeClaim"} & kinds(objects)
    assert lab_pod(objects)[0]["automountServiceAccountToken"] is False


def test_tokens_are_reviewed_only_where_the_configuration_says_so(binary: Path) -> None:
    name = "lab-joulebook-lab-energy"
    assert ("ClusterRole", name) not in rendered(binary, values=LAB)
    lab = {"enabled": True, "discovery": False, "config": "[lab]\nkubernetes = true\n"}
    objects = rendered(binary, values={**LAB, "lab": lab})
    granted = [
        (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
        for rule in objects["ClusterRole", name]["rules"]
    ]
    assert granted == [
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("authorization.k8s.io", "subjectaccessreviews", "create"),
    ]
    (subject,) = objects["ClusterRoleBinding", name]["subjects"]
    pod, _ = lab_pod(objects)
    assert subject["name"] == pod["serviceAccountName"]
    assert pod["automountServiceAccountToken"] is True


def test_pods_that_serve_models_are_found_only_where_the_configuration_says_so(
    binary: Path,
) -> None:
    lab = {"enabled": True, "discovery": False, "config": "[serving]\nkubernetes = true\n"}
    objects = rendered(binary, values={**LAB, "lab": lab})
    (rule,) = objects["ClusterRole", "lab-joulebook-lab-energy"]["rules"]
    assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    assert lab_pod(objects)[0]["automountServiceAccountToken"] is True


def test_values_with_older_names_mean_the_same(binary: Path, tmp_path: Path) -> None:
    """One deployment under all of its names, with the settings of both files and the old claim."""
    objects = rendered(binary, values=OLDER)
    pod, variables = lab_pod(objects)
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "infra"}
    assert variables["HTTPS_PROXY"] == "http://proxy:3128"
    config = dict(configured(objects, tmp_path))["lab"]
    assert (config.rates.currency, config.collect.every_s) == ("EUR", 60)
    assert (config.rates.price.kind, config.rates.price.url) == ("energy-charts", "")
    assert config.rates.carbon.kind == "none", "it would ask itself"
    assert config.collect.ca_file
    claim = the(objects, "PersistentVolumeClaim")
    assert claim["metadata"]["name"] == "lab-joulebook-collector"
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    (books,) = (v for v in pod["volumes"] if v["name"] == "books")
    assert books["persistentVolumeClaim"]["claimName"] == "lab-joulebook-collector"
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name, port, target in (
        ("lab-joulebook-collector", 9901, config.collect.listen),
        ("lab-joulebook-rates", 9900, config.lab.listen),
        ("lab-joulebook-lab", 9817, config.lab.listen),
    ):
        spec = objects["Service", name]["spec"]
        (met,) = (each for each in spec["ports"] if each["port"] == port)
        assert f":{ports[met['targetPort']]}" == target
        labels = the(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert spec["selector"].items() <= labels.items()


def test_rates_alone_stay_rates_alone(binary: Path, tmp_path: Path) -> None:
    objects = rendered(binary, values={"ratesService": OLDER["ratesService"]})
    pod, variables = lab_pod(objects)
    (container,) = pod["containers"]
    assert parsed(*container["args"]).listen == ":9900"
    assert not [name for name in variables if "COLLECT" in name]
    assert not {"PersistentVolumeClaim", "Role"} & kinds(objects)
    assert [
        port["port"] for port in objects["Service", "lab-joulebook-rates"]["spec"]["ports"]
    ] == [9900]


def test_several_lab_servers_share_one_postgresql(binary: Path) -> None:
    objects = rendered(binary, values=EVERYTHING)
    deployment = the(objects, "Deployment")["spec"]
    assert deployment["replicas"] == 2
    assert "strategy" not in deployment, "one goes on while the other is replaced"
    budget = the(objects, "PodDisruptionBudget")["spec"]
    assert budget == {"maxUnavailable": 1, "selector": deployment["selector"]}
    done = run(
        binary, "template", "lab", str(CHART), "--set",
        "lab.enabled=true,lab.replicas=2,handover.tokenSecretName=token",
    )  # fmt: skip
    assert done.returncode != 0
    assert "lab.replicas: several lab servers share one PostgreSQL" in done.stderr
    one = the(rendered(binary, values=LAB), "Deployment")["spec"]
    assert one["strategy"] == {"type": "Recreate"}, "one writes the file"


def test_a_lab_server_of_daemons_with_tls_knows_whose_certificate_they_have(binary: Path) -> None:
    pod, variables = lab_pod(rendered(binary, values=EVERYTHING))
    config = load(None, variables)
    assert config.collect.scheme == "https"
    # What also stands behind the Service, and in the certificate that the documentation asks for.
    assert config.collect.server_name == "lab-joulebook.energy.svc"
    assert config.collect.ca_file == "/etc/joulebook-ca/ca.crt"
    assert config.lab.public_url == "https://joules.example.org"
    (authority,) = (v["secret"] for v in pod["volumes"] if v["name"] == "ca")
    assert authority["items"] == [{"key": "ca.crt", "path": "ca.crt"}], "no private key"


@pytest.mark.parametrize("name", ["lab", "collector"])
def test_a_lab_server_without_a_token_is_refused(binary: Path, name: str) -> None:
    done = run(binary, "template", "lab", str(CHART), "--set", f"{name}.enabled=true")
    assert done.returncode != 0
    assert "handover.tokenSecretName" in done.stderr


def test_driver_root_is_the_only_privileged_way(binary: Path) -> None:
    for example in EXAMPLES:
        objects = rendered(binary, "--values", str(example))
        access = (yaml.safe_load(example.read_text()).get("nvidia") or {}).get("access", "runtime")
        pod, container = daemon(objects)
        privileged = container["securityContext"].get("privileged", False)
        assert privileged is (access == "driverRoot"), example.name
        # Kubernetes refuses privileged containers that may not escalate.
        assert not (privileged and "allowPrivilegeEscalation" in container["securityContext"])
        variables = environment(container)
        assert variables["NVIDIA_VISIBLE_DEVICES"] == ("all" if access == "runtime" else "void")
        assert ("LD_LIBRARY_PATH" in variables) is (access == "driverRoot")
        annotations = the(objects, "DaemonSet")["spec"]["template"]["metadata"]["annotations"]
        assert ("nvidia.cdi.k8s.io/container.joulebook" in annotations) is (access == "cdi")
        assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}


def test_is_scraped_whether_ready_or_not(binary: Path) -> None:
    objects = rendered(binary)
    service = the(objects, "Service")["spec"]
    assert service["publishNotReadyAddresses"] is True
    assert service["clusterIP"] == "None"
    _, container = daemon(objects)
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["ports"] == [{"name": "metrics", "containerPort": 9816, "protocol": "TCP"}]


def test_the_pod_of_helm_test_stays_until_its_log_is_read(binary: Path) -> None:
    """helm 3 deletes what has succeeded before `--logs` asks for it, and then fails."""
    annotations = the(rendered(binary), "Pod")["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "test"
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_configuration_arrives_as_written(binary: Path) -> None:
    config = (
        '# ü "quoted" {{ braces }}\n[exposition]\nlinger_s = 60\n\n[budgets]\n"a/b" = {kwh = 5}\n'
    )
    objects = rendered(binary, values={"config": config, "cluster": "c1", "port": 9900})
    text = the(objects, "ConfigMap")["data"]["joulebook.toml"]
    assert text == config
    assert tomllib.loads(text)["budgets"] == {"a/b": {"kwh": 5}}
    template = the(objects, "DaemonSet")["spec"]["template"]
    variables = environment(template["spec"]["containers"][0])
    assert variables["JOULEBOOK_NODE_CLUSTER"] == "c1"
    assert variables["JOULEBOOK_SERVER_LISTEN"] == ":9900"
    plain = the(rendered(binary), "DaemonSet")["spec"]["template"]
    key = "checksum/config"
    assert template["metadata"]["annotations"][key] != plain["metadata"]["annotations"][key]


def test_an_upgrade_finds_the_ledger_and_replaces_the_daemon_in_place(
    binary: Path, tmp_path: Path
) -> None:
    """Nothing that decides where the books lie, or what the DaemonSet selects, may change."""
    later = tmp_path / "later"
    done = run(
        binary,
        *["package", str(CHART), "--destination", str(later)],
        *["--version", "9.9.9", "--app-version", "9.9.9"],
    )
    assert done.returncode == 0, done.stderr
    (package,) = later.glob("*.tgz")
    old, new = rendered(binary), rendered(binary, chart=package)
    assert old.keys() == new.keys()
    for objects in (old, new):
        (ledger,) = (v for v in daemon(objects)[0]["volumes"] if v["name"] == "ledger")
        assert ledger["hostPath"] == {"path": "/var/lib/joulebook", "type": "DirectoryOrCreate"}
        _, container = daemon(objects)
        assert environment(container)["JOULEBOOK_LEDGER_PATH"] == "/var/lib/joulebook/ledger.db"
        assert {"name": "ledger", "mountPath": "/var/lib/joulebook"} in container["volumeMounts"]
        # Two daemons at once would wait for one lock.
        strategy = the(objects, "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"]
        assert strategy["maxSurge"] == 0
    selectors = [the(each, "DaemonSet")["spec"]["selector"] for each in (old, new)]
    assert selectors[0] == selectors[1], "a selector cannot be changed by an upgrade"
    assert daemon(new)[1]["image"].endswith(":9.9.9")
    # Uninstalled or not, no object of the chart is the ledger's.
    assert not {"PersistentVolume", "PersistentVolumeClaim", "PodDisruptionBudget"} & kinds(old)


def test_notes_say_what_to_do_next(build_dir: Path) -> None:
    # Helm 3 shows notes only where it reaches a cluster.
    done = run(
        helm("4", build_dir),
        *["install", "lab", str(CHART)],
        *["--namespace", "energy", "--dry-run=client"],
    )
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    for wanted in (
        "kubectl label node NODE joulebook.io/measure=true",
        "helm -n energy test lab",
        "joulebook doctor",
        "honor_labels: true",
        "app.kubernetes.io/name=joulebook,app.kubernetes.io/instance=lab",
    ):
        assert wanted in notes


def test_openshift_is_told_what_the_daemon_may(binary: Path) -> None:
    key = ("SecurityContextConstraints", "lab-joulebook-energy")
    create = {"securityContextConstraints": {"create": True}}
    assert key not in rendered(binary)
    constraints = rendered(binary, values=create)[key]
    assert constraints["users"] == ["system:serviceaccount:energy:lab-joulebook"]
    assert constraints["requiredDropCapabilities"] == ["ALL"]
    assert not constraints["allowPrivilegedContainer"]
    driver = {**create, "nvidia": {"access": "driverRoot"}, "hostPID": True}
    constraints = rendered(binary, values=driver)[key]
    assert constraints["allowPrivilegedContainer"]
    assert constraints["allowHostPID"]
