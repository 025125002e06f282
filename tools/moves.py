"""Moves the modules of ``src`` and ``tests`` to the layout with folders, and rewrites what names them.

Run it from the project's root: ``python tools/moves.py``. What has been moved already is left alone, so it can be run
again, also on a branch that still has old modules.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "sharcs.encoders": "What is known of encoders: pure, no model.",
    "sharcs.tasks": "What is answered: labels, losses, how sure an answer is.",
    "sharcs.subnetworks": "What answers an input at a cost of its own, and its layers prepared for inference.",
    "sharcs.model": "The routed network.",
    "sharcs.data": "Tables in and out, texts and labels, tokenised rows.",
    "sharcs.evaluation": "Every sub-network on every input: accuracy against cost.",
    "sharcs.training": "Two recipes: sharcs+ and the paper's.",
    "sharcs.calibration": "A policy with a guarantee.",
    "sharcs.inference": "A trained model in use.",
    "sharcs.export": "Networks as ONNX graphs.",
    "sharcs.report": "A page that a manager can read.",
    "sharcs.benchmark": "What each way of running a network takes on this machine.",
    "sharcs.jobs": "What the commands do, for Python too.",
    "sharcs_cli": "The command ``sharcs``.",
}
SOURCES = {
    "encoders": {"architectures": "architectures", "layers": "layers", "narrow": "narrow"},
    "tasks": {"losses": "losses", "tasks": "labels", "token_losses": "token_losses", "token_tasks": "token_labels"},
    "subnetworks": {"dense": "fast", "lean": "lean", "private": "own", "steady_memory": "onednn"},
    "model": {
        "outputs": "outputs",
        "calls": "calls",
        "router": "router",
        "subnetworks": "tail",
        "cost": "cost",
        "passes": "passes",
        "first_run": "first_run",
        "routed": "base",
        "text_model": "text",
        "modeling": "media",
        "token_modeling": "tokens",
    },
    "data": {
        "tables": "tables",
        "textfiles": "textfiles",
        "jsontypes": "jsontypes",
        "columns": "columns",
        "data": "texts",
        "builtin": "named",
    },
    "evaluation": {
        "evaluation": "accuracy",
        "answers": "answers",
        "label_sets": "label_sets",
        "curve": "curve",
        "plotting": "plot",
        "benchmark_picture": "benchmark_plot",
    },
    "training": {
        "training": "trainer",
        "training_arguments": "arguments",
        "training_state": "checkpoints",
        "distillation": "subnetworks",
        "schedule": "schedule",
        "hardness": "hardness",
        "batches": "batches",
        "importance": "importance",
    },
    "calibration": {
        "bounds": "bounds",
        "choice": "choice",
        "calibration": "calibrate",
        "frontier": "frontier",
        "latency": "latency",
        "trials": "trials",
    },
    "inference": {
        "artifacts": "folder",
        "engine": "engine",
        "pool": "pool",
        "prediction": "predict",
        "results": "record",
        "drift": "monitor",
    },
    "export": {"graphs": "onnx", "export": "bundle"},
    "report": {
        "findings": "findings",
        "reliability": "reliability",
        "report": "content",
        "report_page": "page",
        "report_figures": "figures",
        "charts": "charts",
        "pictures": "pictures",
    },
    "benchmark": {"contestants": "contestants", "benchmark": "measure", "peak": "memory", "advice": "advice"},
    "jobs": {"finetune": "train"},
}
COMMANDS = {
    "cli": "app",
    "cli_options": "options",
    "cli_benchmark": "benchmark",
    "cli_calibrate": "calibrate",
    "cli_export": "export",
    "cli_report": "report",
    "progress": "progress",
}
RUNTIME = {"engine": "scheduler", "texts": "truncation", "runner": "onnx"}
MODULES = {
    **{f"sharcs.{old}": f"sharcs.{folder}.{new}" for folder, names in SOURCES.items() for old, new in names.items()},
    **{f"sharcs.{old}": f"sharcs_cli.{new}" for old, new in COMMANDS.items()},
    **{f"sharcs_runtime.{old}": f"sharcs_runtime.{new}" for old, new in RUNTIME.items()},
}
HELPERS = ("browser", "cli", "encoders", "media", "population", "tiny", "tokens")
TESTS = {
    "encoders": ("narrow",),
    "tasks": ("tasks",),
    "subnetworks": ("dense", "lean", "private"),
    "model": ("modeling", "router", "cost", "media", "tokens", "escalation", "pipeline"),
    "data": ("tables", "data", "builtin"),
    "evaluation": ("evaluation",),
    "training": (
        "training",
        "plus",
        "resume",
        "batches",
        "hardness",
        "importance",
        "importance_families",
        "media_training",
        "token_training",
    ),
    "calibration": ("bounds", "choice", "calibration"),
    "inference": ("drift", "engine", "streaming"),
    "export": ("export",),
    "report": ("report", "report_browser"),
    "benchmark": ("benchmark",),
    "jobs": ("minilm",),
    "cli": ("cli", "cli_calibrate", "cli_errors", "cli_export", "cli_report"),
    "runtime": ("runtime",),
    "studies": ("ports", "pruned"),
}
# What names a place in another way: file, what stands there, what comes in its stead.
BY_HAND = (
    ("src/sharcs/report/page.py", 'PackageLoader("sharcs")', 'PackageLoader("sharcs.report")'),
    ("tests/training/test_resume.py", "tests=str(Path(__file__).parent)", "tests=str(Path(__file__).parents[1])"),
    ("tests/studies/test_ports.py", "parents[1]", "parents[2]"),
    ("tests/studies/test_pruned.py", "parents[1]", "parents[2]"),
    ("tests/records/make.py", "from cli import", "from helpers.cli import"),
    ("pyproject.toml", '"src/sharcs", "src/sharcs_runtime"', '"src/sharcs", "src/sharcs_cli", "src/sharcs_runtime"'),
    ("pyproject.toml", 'sharcs = "sharcs.cli:main"', 'sharcs = "sharcs_cli.app:main"'),
    ("pyproject.toml", '"-q --strict-markers"', '"-q --strict-markers --import-mode=importlib"'),
    ("pyproject.toml", 'testpaths = ["tests"]\naddopts', 'testpaths = ["tests"]\npythonpath = ["tests"]\naddopts'),
)


def path_of(module):
    """Locate a module's file."""
    return Path("src", *module.split(".")).with_suffix(".py")


def move(old, new):
    """Move a tracked file, unless that was done before; tell whether it was done now."""
    if not old.exists() or new.exists():
        return False
    new.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "mv", str(old), str(new)], check=True)
    return True


def renamed(text, moved):
    """Rewrite references to the modules that were moved, by their full names or imported from their package."""
    if not moved:
        return text
    names = "|".join(sorted((re.escape(name) for name in moved), key=len, reverse=True))
    text = re.sub(rf"(?<![\w./])({names})(?![\w])", lambda match: moved[match[1]], text)

    def imports(match):
        indent, package, given = match.groups()
        lines, kept = [], []
        for part in given.split(","):
            name, _, other = part.strip().partition(" as ")
            new = moved.get(f"{package}.{name}")
            if new is None:
                kept.append(part.strip())
                continue
            folder, _, leaf = new.rpartition(".")
            alias = other or name
            lines.append(f"{indent}from {folder} import {leaf}" + (f" as {alias}" if alias != leaf else ""))
        return "\n".join([*([f"{indent}from {package} import {', '.join(kept)}"] if kept else []), *lines])

    return re.sub(r"^( *)from (sharcs|sharcs_runtime) import ([\w, ]+)$", imports, text, flags=re.MULTILINE)


def with_helpers(text, helpers):
    """Rewrite imports of the tests' helpers."""
    names = "|".join(helpers)
    text = re.sub(rf"^( *)from ({names}) import", r"\1from helpers.\2 import", text, flags=re.MULTILINE)
    text = re.sub(rf"^( *)import ({names})(?= *$|  #)", r"\1from helpers import \2", text, flags=re.MULTILINE)
    folders = {f"test_{name}": folder for folder, members in TESTS.items() for name in members}
    others = "|".join(folders)
    return re.sub(
        rf"^from ({others}) import", lambda m: f"from {folders[m[1]]}.{m[1]} import", text, flags=re.MULTILINE
    )


def main():
    """Move, rewrite, and put imports into order."""
    moved = {old: new for old, new in MODULES.items() if move(path_of(old), path_of(new))}
    if Path("src/sharcs/templates").exists():
        subprocess.run(["git", "mv", "src/sharcs/templates", "src/sharcs/report/templates"], check=True)
    helpers = [name for name in HELPERS if move(Path("tests", f"{name}.py"), Path("tests/helpers", f"{name}.py"))]
    for folder, names in TESTS.items():
        for name in names:
            move(Path("tests", f"test_{name}.py"), Path("tests", folder, f"test_{name}.py"))
    for package, says in PACKAGES.items():
        init = Path("src", *package.split("."), "__init__.py")
        if not init.exists():
            init.write_text(f'"""{says}"""\n', encoding="utf-8")
    files = [path for folder in ("src", "tests", "benchmarks") for path in sorted(Path(folder).rglob("*.py"))]
    for path in [*files, *Path("src").rglob("*.html")]:
        before = path.read_text(encoding="utf-8")
        after = renamed(before, moved)
        if path.parts[0] == "tests" and helpers:
            after = with_helpers(after, helpers)
        if after != before:
            path.write_text(after, encoding="utf-8")
    for name, before, after in BY_HAND:
        path = Path(name)
        if path.exists() and before in (text := path.read_text(encoding="utf-8")) and after not in text:
            path.write_text(text.replace(before, after), encoding="utf-8")
    for arguments in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, "src", "tests", "benchmarks"], check=True)


if __name__ == "__main__":
    main()
