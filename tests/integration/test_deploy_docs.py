"""What the deployment pages tell people to type and to write is what the programs take."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from pathlib import Path

import click
import kubernetes_validate
import pytest
import yaml
from tests.command_line import parsed
from tests.integration.chart import CHART, configured, rendered, run
from tests.integration.helm import PACKAGES, helm

from joulebook.config import load

ROOT = CHART.parents[1]
PAGES = [*sorted((ROOT / "docs" / "deploy").glob("*.md")), ROOT / "docs" / "security.md"]


def blocks(kind: str) -> list[str]:
    """The text of every fenced block of a kind, on all pages."""
    return [
        text
        for page in PAGES
        for text in re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.M | re.S)
    ]


def commands() -> list[list[str]]:
    """Every indented line, as a shell would split it; `&&` begins a new one."""
    lines = [
        line.strip()
        for page in PAGES
        for line in re.findall(r"(?m)^    (\S.*)$", re.sub(r"(?s)```.*?```", "", page.read_text()))
    ]
    return [shlex.split(part) for line in lines for part in line.split("&&")]


def test_there_is_something_to_check() -> None:
    assert len(blocks("yaml")) >= 3
    assert len(blocks("toml")) >= 2
    assert len(commands()) >= 20


@pytest.mark.parametrize("text", blocks("yaml"))
def test_values_render_to_valid_objects_and_configurations(
    text: str, build_dir: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(text)
    newest = kubernetes_validate.latest_version()
    objects = rendered(
        helm("4", build_dir), "--kube-version", newest, values=values, release="joulebook"
    )
    for thing in objects.values():
        if "coreos" not in thing["apiVersion"]:
            kubernetes_validate.validate(thing, newest, strict=True)
    loaded = dict(configured(objects, tmp_path))
    assert len(loaded) == 1 + ("lab" in values)
    if "lab" in values:
        # What the nodes ask is what the lab server answers.
        assert loaded["joulebook"].rates.price.kind == "server"
        assert loaded["lab"].rates.price.kind == "energy-charts"


LAB = {"lab": {"enabled": True}, "handover": {"tokenSecretName": "token"}}


def test_names_of_services_are_those_of_the_chart(build_dir: Path) -> None:
    objects = rendered(helm("4", build_dir), values=LAB, release="joulebook")
    services = {name for kind, name in objects if kind == "Service"}
    named = re.findall(r'url = "http://([\w-]+):9817"', "".join(blocks("yaml")))
    assert named
    assert set(named) <= services
    assert ("DaemonSet", "joulebook") in objects  # kubectl exec ds/joulebook


@pytest.mark.parametrize("text", blocks("toml"))
def test_configurations_load(text: str, tmp_path: Path) -> None:
    file = tmp_path / "joulebook.toml"
    file.write_text(text)
    load(file, {})


def test_scrape_configurations_are_prometheus_own(tmp_path: Path) -> None:
    texts = [*blocks("yaml prometheus"), (ROOT / "packaging/prometheus.yml").read_text()]
    assert len(texts) == 2
    for text in texts:
        file = tmp_path / "prometheus.yml"
        # Debian's Prometheus is built without Kubernetes' discovery: the rest is held to it.
        plain = re.sub(
            r"(?m)^    kubernetes_sd_configs:\n(?:      .*\n)+?(?=    \w)",
            "    static_configs: [{targets: [a]}]\n",
            text,
        )
        file.write_text(plain)
        done = subprocess.run(
            ["promtool", "check", "config", str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for job in yaml.safe_load(text)["scrape_configs"]:
            assert job["honor_labels"] is True


def test_commands_of_joulebook_exist() -> None:
    ours = 0
    for words in commands():
        if "joulebook" in words and words[0] in {"joulebook", "kubectl", "docker"}:
            at = len(words) - 1 - words[::-1].index("joulebook")
            arguments = words[at + 1 :]
            if words[0] == "joulebook" or (arguments and "exec" in words):
                parsed(*arguments)
                ours += 1
    assert ours >= 8


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {words[1] for words in commands() if words[0] == "make"}
    assert targets >= {"image", "run"}
    for target in targets:
        assert re.search(rf"(?m)^{target}:", makefile), target


def test_helm_commands_render(build_dir: Path) -> None:
    seen = 0
    for words in commands():
        if words[:2] == ["helm", "install"]:
            arguments = [
                str(ROOT / word) if word.startswith("helm/") else word for word in words[2:]
            ]
            done = run(helm("4", build_dir), "template", *arguments)
            assert done.returncode == 0, done.stderr
            seen += 1
    assert seen == 2


@pytest.mark.parametrize("major", sorted(PACKAGES))
def test_an_upgrade_takes_the_new_defaults_under_the_old_values(
    major: str, build_dir: Path
) -> None:
    """With --reuse-values a chart does not find its own new keys."""
    (upgrade,) = (words for words in commands() if words[:2] == ["helm", "upgrade"])
    assert "--reset-then-reuse-values" in upgrade
    assert "--reset-then-reuse-values" in run(helm(major, build_dir), "upgrade", "--help").stdout


def test_every_example_is_named_on_the_page() -> None:
    page = (ROOT / "docs/deploy/kubernetes.md").read_text()
    for example in (CHART / "examples").glob("*.yaml"):
        assert f"`{example.name}`" in page


def test_files_that_comments_name_are_there() -> None:
    texts = [
        (CHART / "values.yaml").read_text(),
        *(e.read_text() for e in CHART.glob("examples/*")),
    ]
    named = {name for text in texts for name in re.findall(r"docs/[\w/.-]+\.md", text)}
    assert len(named) >= 3
    assert not [name for name in named if not (ROOT / name).exists()]


def test_what_the_readme_says_to_type_is_taken(build_dir: Path) -> None:
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"`([^`\n]+)`|^    ((?:make|joulebook) .*)$", text, re.MULTILINE)
    typed = [part.strip() for line in lines for part in "".join(line).split("&&")]
    typed = [part for part in typed if re.match(r"(joulebook|helm|make) \S", part)]
    assert len(typed) >= 12
    targets = re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text())
    for words in (shlex.split(part, comments=True) for part in typed):
        if words[0] == "make":
            assert words[1] in targets
        elif words[0] == "helm":
            place = [str(ROOT / word) if word.startswith("helm/") else word for word in words[2:]]
            done = run(helm("4", build_dir), "template", *place)
            assert done.returncode == 0, done.stderr
        elif "--help" not in words:
            with contextlib.suppress(click.MissingParameter):  # named without its operands
                parsed(*words[1:])


def test_the_readmes_ways_to_install_need_no_placeholder() -> None:
    """Until a release is published each says what to build first, and then names just that."""
    text = (ROOT / "README.md").read_text()
    deploy = text[text.index("## Deploy") : text.index("## What a paper says")]
    assert not re.search(r"registry\.example|OWNER|<[A-Z]|\.\.\.", deploy)
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in deploy.splitlines()
        if row.startswith("| ") and "where" not in row and "---" not in row
    ]
    ways = {"helm install": "make image", "apt install": "make deb", "docker run": "make image"}
    for way, build in ways.items():
        (row,) = (each for each in rows if way in each[2])
        assert build in row[1]
    # What is installed is what the build leaves: its path, and the name of the image.
    assert "./.build/packages/joulebook_*.deb" in deploy
    assert "out=${1:-.build/packages}" in (ROOT / "packaging/deb").read_text()
    assert "tag=${1:-joulebook}" in (ROOT / "packaging/image").read_text()
    assert yaml.safe_load((CHART / "values.yaml").read_text())["image"]["repository"] == "joulebook"
    assert deploy.count("`pip install .") + deploy.count("`pip install '.[") >= 3
