"""Files to deploy by: the image's steps in an empty environment, the manifest's fields, the dashboard's metrics."""

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from helpers.packages import installed, run_with
from helpers.service import calibrated, running, some_texts
from sharcs_serve.metrics import HELP

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFEST = DEPLOY / "kubernetes.yaml"
NARROW = {"start": "width-25"}
VALIDATE = """
import kubernetes_validate, yaml
version = kubernetes_validate.latest_version().rpartition(".")[0]
for document in yaml.safe_load_all(open(sys.argv[1])):
    kubernetes_validate.validate(document, version, strict=True)
try:
    kubernetes_validate.validate(document | {"spec": {"maxUnavailable": []}}, version, strict=True)
except kubernetes_validate.ValidationError:
    sys.exit()
sys.exit("it takes anything")
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """What a real service counts, whose rungs, checks and shadow have all had something to do."""
    folder = tmp_path_factory.mktemp("deploy")
    ladder = [{"limit": limit, "cost_ratio": cost, "policy": NARROW} for limit, cost in ((0.1, 0.8), (0.5, 0.4))]
    export = calibrated(folder / "export", NARROW, ladder=ladder)
    with running(export, "--check-share", 1, "--shadow", export, "--deadline-ms", 100) as service:
        with service.held():
            texts = {"inputs": some_texts(30), "deadline_ms": 60_000}
            pending = [service.later("/predict", texts) for _ in range(8)]
            service.wait_for(lambda: service.waiting() == 240)
        for _, thread in pending:
            thread.join()
        service.wait_for(lambda: service.metric("sharcs_shadow_checked_total") > 0)
        service.wait_for(lambda: service.metric("sharcs_degraded_total") > 0)
        return service.ask("/metrics")[1]


def sample_labels(text):
    """List the labels of each name of a sample."""
    found = {}
    for line in text.splitlines():
        if match := re.match(r"([a-z_]+)(?:\{(.*)\})? \S+$", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def test_every_query_of_the_dashboard_finds_its_metrics_and_labels(counted):
    board = json.loads((DEPLOY / "grafana.json").read_text())
    labels = sample_labels(counted)
    targets = [target for panel in board["panels"] for target in panel["targets"]]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) > 10
    asked = set()
    for target in targets:
        names = re.findall(r"\bsharcs_\w+", target["expr"])
        assert names
        assert set(names) <= labels.keys()
        asked.update(names)
        wanted = {name for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in group.split(", ")}
        assert wanted - {"instance"} <= set.union(*(labels[name] for name in names)), target["expr"]
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= wanted
        assert target["expr"].count("(") == target["expr"].count(")")
    assert len(asked) > 25


def test_pages_name_metrics_that_there_are():
    page = (ROOT / "docs" / "guides" / "serve.md").read_text()
    named = {name for name in re.findall(r"\bsharcs_\w+", page) if importlib.util.find_spec(name) is None}
    assert len(named) > 10
    assert named <= set(HELP)


def test_the_manifest_says_what_a_service_needs():
    deployment, service, budget = yaml.safe_load_all(MANIFEST.read_text())
    assert [each["kind"] for each in (deployment, service, budget)] == [
        "Deployment",
        "Service",
        "PodDisruptionBudget",
    ]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        assert selector.items() <= pod["metadata"]["labels"].items()
    options = dict(argument.partition("=")[::2] for argument in container["args"][1:])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": int(options["--port"])}
    assert options["--host"] == "0.0.0.0"
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    wait = float(options["--drain-seconds"]) + float(options["--deadline-ms"]) / 1000 + 1
    assert pod["spec"]["terminationGracePeriodSeconds"] > wait
    paths = {"startupProbe": "/health", "livenessProbe": "/health", "readinessProbe": "/ready"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
    ready = container["readinessProbe"]
    assert (
        float(options["--drain-seconds"])
        > ready["periodSeconds"] * ready["failureThreshold"] + ready["timeoutSeconds"]
    )
    for kind in ("requests", "limits"):
        assert container["resources"][kind].keys() == {"cpu", "memory"}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[container["args"][0]]["readOnly"]
    assert str(Path(options["--monitor-file"]).parent) in mounts
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_command_takes_the_options_of_the_manifest_and_the_image():
    from typer.main import get_command

    from sharcs_cli.app import app

    known = {option for parameter in get_command(app).commands["serve"].params for option in parameter.opts}
    (deployment, *_) = yaml.safe_load_all(MANIFEST.read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (command,) = [json.loads(text) for name, text in steps() if name == "CMD"]
    given = {argument.partition("=")[0] for argument in [*container["args"], *command] if argument.startswith("--")}
    assert given <= known


@pytest.mark.extended
def test_the_manifest_keeps_to_the_schemas_of_kubernetes(tmp_path_factory):
    run_with(installed(tmp_path_factory, "kubernetes-validate"), VALIDATE, MANIFEST)


def steps():
    """List the image's instructions and their texts."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_image_has_the_python_of_the_package():
    (image,) = [text for name, text in steps() if name == "FROM"]
    version = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert image == f"python:{version}-slim"


@pytest.mark.extended
def test_the_steps_of_the_image_make_a_service_without_torch(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    environment = {"PATH": f"{tmp_path / 'venv/bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    export = calibrated(tmp_path / "model", NARROW)
    here = {"/model": str(export), "0.0.0.0": "127.0.0.1", "8080": str(port)}  # what is another one outside an image
    folder, entry, health = tmp_path, [], []
    for name, text in steps():
        if name == "WORKDIR":
            folder = tmp_path / text.lstrip("/")
            folder.mkdir()
        elif name == "COPY":
            *sources, target = text.split()
            for source in sources:
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, folder / target)
        elif name == "RUN":
            subprocess.run(["sh", "-c", text], cwd=folder, env=environment, check=True, capture_output=True)
        elif name in ("ENTRYPOINT", "CMD"):
            entry += [here.get(word, word) for word in json.loads(text)]
        elif name == "HEALTHCHECK":
            health = [word.replace(":8080", f":{port}") for word in json.loads(text[text.index("[") :])]
        else:
            assert name in ("FROM", "USER", "EXPOSE", "STOPSIGNAL"), name
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    assert not {"torch", "transformers", "pyarrow"} & {path.name for path in packages.iterdir()}
    with subprocess.Popen(entry, cwd=folder, env=environment) as process:
        try:
            while subprocess.run(health, env=environment, capture_output=True).returncode:
                assert process.poll() is None
            request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", b'{"inputs": "the film is fine"}')
            with urllib.request.urlopen(request) as response:
                assert {entry["label"] for entry in json.load(response)} == {"bad", "good", "odd"}
        finally:
            process.terminate()
        assert process.wait() == 0
    tools = {"pip", "setuptools", "__pycache__"}  # the environment's own, and what running adds
    files = [path for path in packages.rglob("*") if path.is_file() and not tools & set(path.parts)]
    assert sum(path.stat().st_size for path in files) < 250e6
