"""What a training shows while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from sharcs.training.arguments import PLUS
from sharcs.training.checkpoints import FRONT, SUBNETWORKS

if TYPE_CHECKING:
    from rich.console import Console

LATER_RUNS = {FRONT: "sub-networks in front of the encoder", SUBNETWORKS: "sub-networks"}


class EpochProgress(TrainerCallback):
    """A bar of optimiser steps, and a line an epoch with its loss and its shares.

    Args:
        console: Where to show them.
    """

    def __init__(self, console: Console) -> None:
        """Prepare the bar."""
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
        )
        self._console = console
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("training", total=None)
        self._shares = "all at full width"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar."""
        if args.recipe == PLUS:
            what = LATER_RUNS.get(Path(args.output_dir).name, "full network")
            self._shares = f"trained the {what}"
        self._progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar; the total changes with the size of the epochs' groups."""
        self._progress.update(self._task, completed=state.global_step, total=state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Print the epoch's loss, with the shares that were logged at its beginning."""
        logs = logs or {}
        shares = {name.removeprefix("share_"): value for name, value in logs.items() if name.startswith("share_")}
        if shares:
            parts = (f"{100 * value:.0f}% at {width}" for width, value in shares.items())
            self._shares = "trained " + ", ".join(parts)
        if "loss" in logs:
            self._console.print(f"epoch {state.epoch:.0f}: loss {logs['loss']:.3f}; {self._shares}", highlight=False)

    def close(self) -> None:
        """Close the bar, also after an interruption: while it is open, the terminal has no cursor."""
        if self._progress.live.is_started:
            self._progress.stop()
