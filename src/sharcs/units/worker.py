"""A worker, a process or an actor: answers one unit after the other, and says what came of it."""

from __future__ import annotations

import os
import signal
import warnings
from typing import TYPE_CHECKING, Any

import transformers

from sharcs.errors import InputError, first_line
from sharcs.inference.exported import open_network
from sharcs.units.work import UnitWorker, on_threads

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from sharcs.inference.exported import ExportedModel
    from sharcs.inference.folder import TrainedModel
    from sharcs.units.plan import Job, Plan


def main(link: Connection, job: Job, plan: Plan, promise: tuple[float, float] | None) -> None:
    """Answer units until the other end is closed.

    Args:
        link: Hands over a unit's number and whether the full network is to answer it; takes ``("rows", number)``
            after each window, and in the end ``("done", Done)``, or ``("error", line)`` and nothing more.
        job: What is asked for.
        plan: Which rows are in which unit.
        promise: The limit of disagreement that is checked, and its confidence; None without checks.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's affair: it ends this process
    _be_quiet()
    try:
        units = plan.units()
        trained = open_network(job.folder, threads=1)
        worker = UnitWorker(job, plan, promise, trained)
        with on_threads(trained):
            while True:
                number, full = link.recv()
                done = worker.answer(units[number], full, lambda rows: link.send(("rows", rows)))
                link.send(("done", done))
    except (EOFError, ConnectionError):
        return  # the command has ended, or does without this process
    except (InputError, OSError, ImportError) as error:
        link.send(("error", first_line(error)))


class UnitActor:
    """The same as an actor of Ray, which calls it from another machine.

    Args:
        task: The arguments of :func:`main` behind the first.
    """

    def __init__(self, task: tuple[Job, Plan, tuple[float, float] | None]) -> None:
        self._task = task
        self._units = task[1].units()
        self._opened: tuple[UnitWorker, TrainedModel | ExportedModel] | None = None

    def begin(self) -> tuple[str, Any]:
        """Load the network.

        Returns:
            ``("begun", node)``, or ``("error", line)``.
        """
        import ray

        _be_quiet()
        job, plan, promise = self._task
        try:
            trained = open_network(job.folder, threads=1)
            self._opened = UnitWorker(job, plan, promise, trained), trained
        except (InputError, OSError, ImportError) as error:
            return "error", first_line(error)
        return "begun", ray.get_runtime_context().get_node_id()

    def answer(self, number: int, full: bool) -> tuple[str, Any]:
        """Answer a unit.

        Args:
            number: Of the unit.
            full: Whether the full network answers all of it.

        Returns:
            ``("done", Done)``, or ``("error", line)``.
        """
        assert self._opened is not None
        worker, trained = self._opened
        try:
            with on_threads(trained):
                return "done", worker.answer(self._units[number], full, lambda _: None)
        except (InputError, OSError) as error:
            return "error", first_line(error)


def _be_quiet() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    warnings.simplefilter("ignore")  # the command has read the same data, and said it
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
