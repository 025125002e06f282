"""What ``import sharcs`` loads, what it offers, and what it says where packages are missing."""

import subprocess
import sys

import pytest

import sharcs
from sharcs.inference.engine import InferenceEngine
from sharcs.inference.monitor import DriftMonitor
from sharcs.training.arguments import SharcsTrainingArguments
from sharcs.training.trainer import SharcsTrainer

HEAVY = {"accelerate", "datasets", "jinja2", "matplotlib", "onnx", "onnxruntime", "pyarrow", "scipy", "sklearn"}
OWN = {"sharcs", "sharcs_runtime"}
LAZY = (DriftMonitor, InferenceEngine, SharcsTrainer, SharcsTrainingArguments)

# Makes packages look as if they were not installed, to those who import them and to those who ask.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run(code, *arguments):
    """Run code in a fresh process."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def modules_after(statement):
    """Name the modules that a fresh process has after a statement."""
    process = run(f"{statement}\nimport sys\nprint(*sys.modules)")
    assert process.returncode == 0, process.stderr
    return set(process.stdout.split())


def test_importing_loads_what_a_pretrained_model_needs_and_the_tokenizers():
    plain = modules_after("from transformers import PreTrainedModel")
    ours = modules_after("import sharcs")
    assert "sharcs.model.media" in ours
    added = ours - plain
    assert {name.partition(".")[0] for name in added if "torch" not in name} <= OWN | {
        "array_api_compat",
        "tokenizers",
        "transformers",
    }
    assert not {name for name in added if name.partition(".")[0] in HEAVY | {"typer"}}
    assert not {name for name in added if name.startswith(("sharcs.data", "sharcs.report", "sharcs_cli"))}


def test_importing_registers_with_the_auto_classes():
    code = "import sharcs\nfrom transformers import AutoConfig\nprint(type(AutoConfig.for_model('sharcs')).__name__)"
    assert run(code).stdout == "SharcsConfig\n"


def test_a_lazy_name_is_the_object_of_its_module():
    names = [lazy.__name__ for lazy in LAZY]
    code = (
        f"import sharcs\nfor name in {names}:\n"
        "    assert name in dir(sharcs) and name not in vars(sharcs)\n    print(getattr(sharcs, name))"
    )
    assert run(code).stdout == "".join(f"{lazy}\n" for lazy in LAZY)
    assert [getattr(sharcs, name) for name in names] == list(LAZY)


def test_every_public_name_is_there():
    assert set(sharcs.__all__) <= set(dir(sharcs))
    assert all(hasattr(sharcs, name) for name in sharcs.__all__)
    with pytest.raises(AttributeError, match="module 'sharcs' has no attribute 'Trainer'"):
        _ = sharcs.Trainer


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_importing_without_torch_names_the_extra(package):
    process = run(BLOCKED.format(blocked={package}) + "import sharcs")
    message = f"No module named '{package}'; install the extra train: pip install 'sharcs[train]'"
    assert process.stderr.splitlines()[-1] == f"sharcs_runtime.errors.MissingPackageError: {message}"


def test_the_runtime_needs_no_torch():
    code = BLOCKED.format(blocked={"torch", "transformers", "typer", "rich", *HEAVY})
    process = run(code + "from sharcs_runtime import OnnxRunner, RoutingPolicy\nprint(OnnxRunner)")
    assert process.stdout == "<class 'sharcs_runtime.onnx.OnnxRunner'>\n", process.stderr


COMMANDS = {
    "train": ("--data", "a.csv", "--output", "out"),
    "evaluate": ("model", "--data", "a.csv"),
    "predict": ("model", "--data", "a.csv", "--output", "out.csv"),
    "calibrate": ("model", "--data", "a.csv", "--budget", "0.5"),
    "export": ("model", "--output", "out"),
    "benchmark": ("model", "--data", "a.csv"),
    "report": ("model", "--data", "a.csv", "--output", "out.html"),
}


@pytest.mark.parametrize("package", ["torch", "transformers"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_what_it_needs_names_the_extra(command, package, tmp_path):
    code = BLOCKED.format(blocked={package}) + "from sharcs_cli.app import main\nsys.argv[0] = 'sharcs'\nmain()"
    process = run(code, command, *COMMANDS[command])
    line = f"sharcs: error: No module named '{package}'; install the extra train: pip install 'sharcs[train]'\n"
    assert (process.returncode, process.stdout, process.stderr) == (2, "", line)
