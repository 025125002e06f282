"""The wheel: what is in it, and that it runs exported networks where there is no torch."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.cli import succeeds
from records.make import HERE
from sharcs_runtime import OnnxRunner

ROOT = Path(__file__).parents[1]
TEXTS = ["the film is fine", "my dog is awful", "it is dull 7"]
PREDICT = """
import importlib.util, json, sys
from sharcs_runtime import OnnxRunner
assert not [name for name in ("torch", "transformers", "pyarrow") if importlib.util.find_spec(name)]
print(json.dumps([list(answer) for answer in OnnxRunner(sys.argv[1]).predict(json.loads(sys.argv[2]))]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    subprocess.run(pip, check=True, capture_output=True, text=True)
    (file,) = folder.glob("sharcs-*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_has_the_packages_their_types_and_the_templates(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert source <= names
    assert {name.partition("/")[0] for name in names} == {
        "sharcs",
        "sharcs_cli",
        "sharcs_runtime",
        "sharcs_serve",
        f"{wheel.name.rsplit('-', 3)[0]}.dist-info",
    }
    assert {f"{name}/py.typed" for name in ("sharcs", "sharcs_cli", "sharcs_runtime", "sharcs_serve")} <= names
    templates = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/sharcs/report/templates").iterdir()}
    assert len(templates) > 1
    assert templates <= names


@pytest.mark.slow
def test_without_torch_an_export_runs_and_a_training_names_the_extra(wheel, tmp_path):
    succeeds("export", HERE / "plus", "--output", tmp_path / "export")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    bin_folder = tmp_path / "venv/bin"
    pip = (bin_folder / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    subprocess.run([*pip, f"sharcs[onnx] @ {wheel.as_uri()}"], check=True, capture_output=True)

    def run(*command):
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(
            [bin_folder / command[0], *command[1:]], capture_output=True, text=True, cwd=tmp_path, env=environment
        )

    answers = run("python", "-c", PREDICT, tmp_path / "export", json.dumps(TEXTS))
    assert answers.returncode == 0, answers.stderr
    expected = [list(answer) for answer in OnnxRunner(tmp_path / "export").predict(TEXTS)]
    for found, wanted in zip(json.loads(answers.stdout), expected, strict=True):
        assert found == pytest.approx(wanted)
    shown = run("sharcs", "--help")
    assert shown.returncode == 0
    assert "calibrate" in shown.stdout
    refused = run("sharcs", "train", "--data", "a.csv", "--output", "out")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("sharcs: error: No module named 'transformers'; install the extra train: ")
    assert refused.stderr.count("\n") == 1
    imported = run("python", "-c", "import sharcs")
    assert imported.stderr.splitlines()[-1].endswith("install the extra train: pip install 'sharcs[train]'")
