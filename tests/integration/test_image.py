"""The image, built from the Dockerfile and run with the rights and mounts of the chart."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.lab import get, until
from tests.fakes.kube_api.server import FakeApi
from tests.fakes.kubelet.kubelet import FakeKubelet
from tests.fakes.nvml.build import build
from tests.fakes.nvml.scenario import Gpu, Scenario
from tests.integration.chart import Object, Objects, daemon, environment, rendered, the
from tests.integration.debian_root import debootstrap
from tests.integration.helm import helm
from tests.integration.image import Container, Engine, Mount, programs, stop
from tests.ports import free_port

SUITE = "trixie"
"""Stands in for the base image: a Debian with Python 3.13, the newest that the locks are for."""

LIMIT_MB = 260
"""More would be noticed by whoever pulls it to a thousand nodes."""

pytestmark = pytest.mark.timeout(500)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image")


@pytest.fixture(scope="module")
def engine(scratch: Path) -> Engine:
    return Engine(scratch)


@pytest.fixture(scope="module")
def base(engine: Engine, build_dir: Path) -> str:
    root = build_dir / f"base-{SUITE}"
    if not root.exists():  # fetched once: nothing here writes into it
        partial = Path(tempfile.mkdtemp(prefix="base-", dir=build_dir)) / "root"
        debootstrap(SUITE, ["python3", "python3-venv"], partial).rename(root)
        partial.parent.rmdir()
    return engine.base(root, "base")


@pytest.fixture(scope="module")
def said(engine: Engine, base: str, scratch: Path) -> str:
    """What building the image `joulebook` printed."""
    return engine.build(base, "joulebook", scratch)


@pytest.fixture
def container(engine: Engine, said: str) -> Iterator[Container]:
    assert said
    made = Container(engine, "joulebook")
    yield made
    made.close()


@pytest.fixture
def cards(tmp_path: Path) -> Scenario:
    scenario = Scenario.create(
        tmp_path / "scenario",
        [Gpu(uuid=f"GPU-00000000-0000-0000-0000-00000000000{n}") for n in "ab"],
    )
    scenario.path.chmod(0o666)
    return scenario


def driver(cards: Scenario) -> tuple[dict[str, str], list[Mount]]:
    """NVIDIA's runtime in small: the library and the cards, put into the container."""
    library = build(Path(__file__).resolve().parents[2] / ".build/fakes")
    return (
        {"LD_LIBRARY_PATH": "/opt/driver", "FAKE_NVML_SCENARIO": "/opt/cards/scenario"},
        [
            Mount(library.parent, "/opt/driver", read_only=True),
            Mount(cards.path.parent, "/opt/cards"),
        ],
    )


def test_says_how_big_it_is(said: str) -> None:
    size = re.search(r"^joulebook: ([\d.]+) MB$", said, re.MULTILINE)
    assert size, said[-300:]
    print(size[0], f"on Debian {SUITE}")
    assert float(size[1]) < LIMIT_MB


def test_is_also_what_the_chart_asks_for(engine: Engine, said: str, build_dir: Path) -> None:
    _, asked = daemon(rendered(helm("4", build_dir)))
    assert engine.about(asked["image"])["OCIv1"] == engine.about("joulebook")["OCIv1"]


def test_the_collector_finds_its_postgresql_in_it(container: Container) -> None:
    site = "opt/venv/lib/python3*/site-packages"
    assert list(container.root.glob(f"{site}/psycopg/__init__.py"))
    assert list(container.root.glob(f"{site}/psycopg_binary/_psycopg*.so"))


def test_holds_no_compiler_and_no_package_manager(container: Container) -> None:
    there = programs(container.root)
    assert {"joulebook", "python"} <= there
    strange = re.compile(
        r"(pip|apt|dpkg|gcc|cc|c\+\+|g\+\+|ld|make|perl|conda|easy_install|uv)[\d.]*"
    )
    assert not sorted(name for name in there if strange.fullmatch(name))
    assert not list(container.root.glob("usr/lib/python3*/ensurepip"))
    assert not list(container.root.glob("opt/venv/lib/python3*/site-packages/pip"))
    # What scanners read to know which libraries these are.
    assert (container.root / "var/lib/dpkg/status").stat().st_size > 1000


def test_says_what_it_is_and_how_it_is_used(engine: Engine, said: str) -> None:
    about = engine.about("joulebook")
    config = about["OCIv1"]["config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "joulebook"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", labels["org.opencontainers.image.version"])
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])
    assert config["User"] == "65532:65532"
    assert "9816/tcp" in config["ExposedPorts"]
    assert (config["Entrypoint"], config["Cmd"]) == (["joulebook"], ["run"])
    assert about["Docker"]["config"]["Healthcheck"]["Test"] == ["CMD", "joulebook", "health"]


def test_the_same_sources_give_the_same_image(
    engine: Engine, base: str, said: str, scratch: Path
) -> None:
    engine.build(base, "again", scratch)
    first, second = (engine.about(tag) for tag in ("joulebook", "again"))
    assert first["OCIv1"]["rootfs"]["diff_ids"] == second["OCIv1"]["rootfs"]["diff_ids"]
    assert first["OCIv1"] == second["OCIv1"], "and labels, times and commands"


@pytest.fixture
def values() -> Object:
    return {"cluster": "lab", "port": free_port()}


def mounted(
    pod: Object, container: Object, objects: Mapping[Any, Object], kubelet: Path, home: Path
) -> list[Mount]:
    """The pod's volumes as folders of this machine."""
    found = {}
    for volume in pod["volumes"]:
        place = home / volume["name"]
        place.mkdir()
        if "configMap" in volume:
            data = objects["ConfigMap", volume["configMap"]["name"]]["data"]
            for name, text in data.items():
                (place / name).write_text(text)
        elif volume.get("hostPath", {}).get("path", "").startswith("/sys/"):
            place = Path(volume["hostPath"]["path"])
        elif volume["name"] == "pod-resources":
            place = kubelet
        found[volume["name"]] = place
    return [
        Mount(found[each["name"]], each["mountPath"], each.get("readOnly", False))
        for each in container["volumeMounts"]
    ]


def test_serves_on_kubernetes_with_what_the_chart_grants(
    container: Container, cards: Scenario, values: Object, build_dir: Path, tmp_path: Path
) -> None:
    objects = rendered(helm("4", build_dir), values=values)
    pod, asked = daemon(objects)
    home = tmp_path / "volumes"
    home.mkdir()
    kubelet_folder = tmp_path / "pod-resources"
    kubelet_folder.mkdir(mode=0o750)
    account = tmp_path / "service-account"
    extra, driver_mounts = driver(cards)
    mounts = [
        *mounted(pod, asked, objects, kubelet_folder, home),
        *driver_mounts,
        Mount(account, "/var/run/secrets/kubernetes.io/serviceaccount", read_only=True),
    ]
    uid = "7d7f9a1e-0000-4000-8000-00000000000a"
    with FakeKubelet(kubelet_folder / "kubelet.sock") as kubelet, FakeApi(account) as api:
        kubelet.advertise("nvidia.com/gpu", *cards.uuids)
        kubelet.admit("team-a", "train-x", {"nvidia.com/gpu": [cards.uuids[0]]})
        api.put_pod("team-a", "train-x", uid=uid, node="gpu01")
        env = {
            **environment(asked),
            **{each["name"]: "gpu01" for each in asked["env"] if "valueFrom" in each},
            **api.environment(),
            **extra,
        }
        rights = asked["securityContext"]
        process = container.start(
            asked["args"],
            env=env,
            mounts=mounts,
            rights=rights,
            log=tmp_path / "log",
        )
        try:
            url = f"http://127.0.0.1:{values['port']}"
            until(
                "the pod to be booked",
                lambda: 'workload="train-x.7d7f9a1e"' in get(f"{url}/metrics")[1],
                timeout_s=90,
            )
            for probe in ("livenessProbe", "readinessProbe"):
                assert get(url + asked[probe]["httpGet"]["path"])[0] == 200
            text = get(f"{url}/metrics")[1]
            assert 'node="gpu01"' in text and 'cluster="lab"' in text
            assert re.search(r'joulebook_sensor_up\{[^}]*sensor="nvml"[^}]*\} 1', text)
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(r"^Uid:\t0\t0\t0\t0$", status, re.MULTILINE)
            for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh"):
                assert re.search(rf"^{name}:\t0+$", status, re.MULTILINE), name
            assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
            assert helm_test(objects, values["port"]) == 0
            assert_the_doctor_is_content(
                container.start(
                    ["doctor"], env=env, mounts=mounts, rights=rights, log=tmp_path / "doctor"
                ),
                tmp_path / "doctor",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(tmp_path / 'log').read_text()}") from None
        finally:
            assert stop(process) == 0, (tmp_path / "log").read_text()
    assert (home / "ledger" / "ledger.db").stat().st_size > 0
    written = {path.name for path in container.root.glob("*")}
    assert "ledger.db" not in written, "the root is read-only"


def assert_the_doctor_is_content(doctor: subprocess.Popen[bytes], log: Path) -> None:
    """`kubectl exec ... joulebook doctor`: only what this machine lacks beside a cluster's node."""
    status = doctor.wait(60)
    said = " ".join(log.read_text().split())
    assert status == 0, said
    assert "needs no capability" in said
    assert "API server: lists the pods of gpu01" in said
    warned = re.findall(r"WARN ([\w ]+?)(?=:| = )", said)
    assert set(warned) <= {"clock", "cgroups of pods", "processes", "server.listen"}


def helm_test(objects: Objects, port: int) -> int:
    """What the pod of `helm test` runs, against the daemon here instead of the Service's name."""
    (tester,) = the(objects, "Pod")["spec"]["containers"]
    script, name, asked_port, scheme, guarded, patience_s = tester["args"]
    assert float(patience_s) >= 60, "an image has to be pulled"
    assert name == "lab-joulebook.energy.svc"
    assert asked_port == str(port)
    done = subprocess.run(
        ["python3", "-c", script, "127.0.0.1", asked_port, scheme, guarded, "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    print(done.stdout, done.stderr)
    nobody = subprocess.run(
        ["python3", "-c", script, "127.0.0.1", str(free_port()), scheme, guarded, "0"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert nobody.returncode != 0, "a daemon that does not answer fails the test"
    return done.returncode


def test_serves_on_a_workstation_as_its_own_user(
    container: Container, cards: Scenario, tmp_path: Path
) -> None:
    """`docker run` as docs/deploy/workstation.md says it: no rights, a named volume, a port."""
    extra, mounts = driver(cards)
    uid, gid = (int(each) for each in container.user.split(":"))
    # A new volume begins as a copy of what the image has there, owner and all.
    books = container.root / "var/lib/joulebook"
    assert (books.stat().st_uid, books.stat().st_gid) == (uid, gid)
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o750)
    subprocess.run(["chown", f"{uid}:{gid}", str(volume)], check=True)
    tmp_path.chmod(0o755)
    for each in tmp_path.parents[:-1][:3]:
        each.chmod(each.stat().st_mode | 0o055)
    port = free_port()
    env = {**extra, "JOULEBOOK_SERVER_LISTEN": f":{port}", "JOULEBOOK_NODE_NAME": "desk"}
    rights = {
        "runAsUser": uid,
        "runAsGroup": gid,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    mounts = [*mounts, Mount(volume, "/var/lib/joulebook")]
    log = tmp_path / "log"
    process = container.start(container.command, env=env, mounts=mounts, rights=rights, log=log)
    try:
        url = f"http://127.0.0.1:{port}"
        until("ready", lambda: get(f"{url}/readyz")[0] == 200, timeout_s=60)
        assert len(re.findall(r"^joulebook_gpu_power_watts\{", get(f"{url}/metrics")[1], re.M)) == 2
        # The health check of the image, in a second process beside it.
        check = container.start(["health"], env=env, mounts=mounts, rights=rights, log=log)
        assert check.wait(60) == 0
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()}") from None
    finally:
        assert stop(process) == 0, log.read_text()
    dead = container.start(["health"], env=env, mounts=mounts, rights=rights, log=log)
    assert dead.wait(60) == 1, "nobody answers any more"


def test_a_node_without_any_meter_has_a_pod_that_says_so(
    container: Container, values: Object, build_dir: Path, tmp_path: Path
) -> None:
    """A cluster of virtual machines, or kind: no card, no driver, no RAPL."""
    objects = rendered(helm("4", build_dir), values={**values, "hostSys": {"enabled": False}})
    pod, asked = daemon(objects)
    home, kubelet, log = (tmp_path / name for name in ("volumes", "pod-resources", "log"))
    home.mkdir()
    kubelet.mkdir(mode=0o750)
    process = container.start(
        asked["args"],
        env={
            **environment(asked),
            "JOULEBOOK_NODE_NAME": "bare",
            "JOULEBOOK_SENSORS_NVML_ENABLED": "false",
        },
        mounts=mounted(pod, asked, objects, kubelet, home),
        rights=asked["securityContext"],
        log=log,
    )
    try:
        url = f"http://127.0.0.1:{values['port']}"
        until("an answer", lambda: get(f"{url}/readyz")[0] == 200, timeout_s=60)
        assert "nothing to measure" in get(f"{url}/readyz")[1]
        assert helm_test(objects, values["port"]) == 0
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()}") from None
    finally:
        assert stop(process) == 0, log.read_text()


def test_shows_itself_without_any_card(container: Container, tmp_path: Path) -> None:
    """`docker run ... joulebook run --demo`, and the chart's extraArgs: ledger in the volume."""
    uid, gid = (int(each) for each in container.user.split(":"))
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o750)
    subprocess.run(["chown", f"{uid}:{gid}", str(volume)], check=True)
    port, log = free_port(), tmp_path / "log"
    process = container.start(
        ["run", "--demo", "always"],
        env={"JOULEBOOK_SERVER_LISTEN": f":{port}"},
        mounts=[Mount(volume, "/var/lib/joulebook")],
        rights={
            "runAsUser": uid,
            "runAsGroup": gid,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        log=log,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        until("a job", lambda: 'experiment="bert-base"' in get(f"{url}/metrics")[1], timeout_s=60)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()}") from None
    finally:
        assert stop(process) == 0, log.read_text()
    assert (volume / ".build/demo/ledger.db").stat().st_uid == uid
