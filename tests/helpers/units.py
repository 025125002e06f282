"""Worker processes that answer few rows at a time, one of which dies in the middle of a unit."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

from sharcs.inference import engine
from sharcs.inference import predict as prediction
from sharcs.units import worker
from sharcs.units.work import UnitWorker

WINDOW = 4


class Small(engine.InferenceEngine):
    """Answers few rows at a time; kills its process where :func:`doom` says so."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, window=WINDOW, **kwargs)
        self.count = 0

    def _answer(self, read):
        if "DOOM" in os.environ:
            die_if_due(Path(os.environ["DOOM"]), self.count)
        self.count += 1
        return super()._answer(read)


def doom(output, window, deaths):
    """Have the first processes that come to their ``window``-th window die of it, at most so many."""
    folder = Path(f"{output}-doom")
    folder.mkdir()
    (folder / "window").write_text(f"{window}")
    for number in range(deaths):
        (folder / f"death-{number}").touch()
    return folder


def die_if_due(folder, count):
    """Take one of the deaths that are left, and die."""
    if count == int((folder / "window").read_text()):
        for death in folder.glob("death-*"):
            with contextlib.suppress(FileNotFoundError):
                death.unlink()  # by one process alone
                os.kill(os.getpid(), signal.SIGKILL)


def main(link, job, plan, promise):
    """Be a worker process with small windows."""
    prediction.InferenceEngine = Small
    worker.main(link, job, plan, promise)


def doomed(link, job, plan, promise):
    """Be one that may die; the directory beside the output says when."""
    os.environ["DOOM"] = f"{job.output}-doom"
    main(link, job, plan, promise)


def poisoned(link, job, plan, promise):
    """Be one that dies of the sixth unit."""
    answer = UnitWorker.answer

    def fatal(self, unit, *arguments):
        if unit.number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(self, unit, *arguments)

    UnitWorker.answer = fatal
    main(link, job, plan, promise)


def with_labels(model, folder, names, label_type):
    """Copy a model, with other names of its classes, and the type that they had in the training's table."""
    shutil.copytree(model, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["id2label"] = {index: names[name] for index, name in config["id2label"].items()}
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    file.write_text(json.dumps(config | {"label_type": label_type}), encoding="utf-8")
    return folder
