"""A worker process: answers one unit after the other, and says what came of it."""

from __future__ import annotations

import os
import signal
import warnings
from typing import TYPE_CHECKING

import transformers

from sharcs.errors import InputError, first_line
from sharcs.inference.exported import open_network
from sharcs.units.work import UnitWorker, on_threads

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

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
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    warnings.simplefilter("ignore")  # the command has read the same data, and said it
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
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
