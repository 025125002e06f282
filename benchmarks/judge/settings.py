"""Frozen settings: committed before test rows are read, and never changed under the same name."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import DATA, RESULTS, save
from judge.data import Parts, load

HERE = Path(__file__).parent
FILE = HERE / "settings.json"
FOLDER = RESULTS / "judge"
# Where numbers that decide something stand beside the code that uses them; they are frozen with the rest.
MODULES = (
    "judge.training",
    "judge.exits",
    "judge.joint_exits",
    "judge.linear",
    "judge.dynabert",
    "judge.students",
    "judge.lexical",
    "judge.families",
    "judge.front",
    "judge.curves",
    "judge.data",
    "sharcs.data.made",
    "sharcs.training.front",
)


class SettingsError(Exception):
    """Test rows must not be read with these settings."""


def constants() -> dict[str, str]:
    """List the constants of the modules, by module and name."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for constant, value in vars(module).items():
            if constant.isupper() and isinstance(value, int | float | str | tuple | dict):
                found[f"{name}.{constant}"] = repr(value).replace(str(DATA), "data")
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Study:
    """A comparison by its name and its settings.

    Attributes:
        name: The study's name; its results lie in a folder of that name.
        settings: What its file holds; what it leaves out is as in ``settings.json``. ``again`` lists what is not
            taken from the study whose peers are its own, as SET/METHOD.
        file: Where they stand.
    """

    name: str
    settings: dict[str, Any]
    file: Path = FILE

    @classmethod
    def read(cls, file: Path = FILE) -> Study:
        """Read the settings."""
        settings = json.loads(FILE.read_text()) | json.loads(file.read_text())
        return cls(settings["study"], settings, file)

    @property
    def ours_by_probability(self) -> bool:
        """Whether ours is chosen by the probability that answers give to the true class; peers are by counts."""
        return bool(self.settings.get("ours_by_probability", False))

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        return FOLDER / self.name

    @property
    def folders(self) -> list[Path]:
        """Where answers are looked for: the study's own, then, if it names one, the study whose peers are its own."""
        return [self.folder, *([FOLDER / self.settings["peers"]] if "peers" in self.settings else [])]

    def answers_of(self, name: str, seed: str | int, method: str) -> Path:
        """Find a method's answers to a set; where there are none yet, the place for them."""
        is_again = f"{name}/{method}" in self.settings.get("again", ())
        every = [folder / name / str(seed) / f"{method}.npz" for folder in self.folders[: 1 if is_again else None]]
        return next((file for file in every if file.exists()), every[0])

    @property
    def fingerprint(self) -> str:
        """A hash of everything that is frozen."""
        content = json.dumps([self.settings, constants()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def parts(self, name: str) -> Parts:
        """Hand out a set's rows, test rows among them.

        Raises:
            SettingsError: If the settings don't allow it.
        """
        self.freeze()
        return load(name)

    def freeze(self) -> None:
        """Note the settings before test rows are read for the first time, and compare them ever after.

        Raises:
            SettingsError: If they are not committed, or are others than those of this name's first reading.
        """
        frozen = self.folder / "frozen.json"
        if frozen.exists():
            noted = json.loads(frozen.read_text())
            if noted["fingerprint"] != self.fingerprint:
                changed = self._changes(noted)
                raise SettingsError(
                    f"{self.file.name}: test rows were read with other settings under the name {self.name} "
                    f"({', '.join(changed)}); give the study a new name"
                )
            return
        if not (committed(FILE) and committed(self.file)):
            raise SettingsError(f"{self.file.name}: is not committed as it is; commit it before test rows are read")
        content = {"fingerprint": self.fingerprint, "settings": self.settings, "constants": constants()}
        save(frozen, content)

    def _changes(self, noted: dict[str, Any]) -> list[str]:
        before = noted["settings"] | noted["constants"]
        now = self.settings | constants()
        return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def committed(file: Path) -> bool:
    """Tell whether a file is in the last commit as it is."""
    run = subprocess.run(
        ["git", "diff", "--quiet", "HEAD", "--", file.name], cwd=file.parent, capture_output=True, check=False
    )
    known = subprocess.run(
        ["git", "ls-files", "--error-unmatch", file.name], cwd=file.parent, capture_output=True, check=False
    )
    return run.returncode == known.returncode == 0
