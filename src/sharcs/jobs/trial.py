"""A short trial of what the encoder's head reads: the first token, or the mean of all."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PrinterCallback

from sharcs.errors import InputError
from sharcs.spec import FIRST, MEAN
from sharcs.training.arguments import SharcsTrainingArguments
from sharcs.training.processes import from_first, on_cpus, process_count
from sharcs.training.trainer import SharcsTrainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from transformers import EvalPrediction

    from sharcs.model.base import RoutedModel

MOST_ROWS, EPOCHS = 2000, 2
POOLING = "1_Pooling/config.json"
RESULT = "readout"  # a file beside the checkpoints, so that a resumed training needs no second trial


def accuracy_of(prediction: EvalPrediction) -> dict[str, float]:
    """Measure how often answers are right: of several labels, all of them."""
    logits, labels = _logits(prediction), np.asarray(prediction.label_ids)
    right = logits.argmax(-1) == labels if labels.ndim == 1 else ((logits > 0) == (labels > 0.5)).all(-1)
    return {"accuracy": float(right.mean())}


def error_of(prediction: EvalPrediction) -> dict[str, float]:
    """Measure how far numbers are from the truth: the mean square, as ``error``."""
    difference = _logits(prediction).reshape(-1) - np.asarray(prediction.label_ids).reshape(-1)
    return {"error": float((difference**2).mean())}


def measure_of(job: Any) -> Callable[[EvalPrediction], dict[str, float]]:
    """Say what answers are measured by."""
    return error_of if job.regression else accuracy_of


def _logits(prediction: EvalPrediction) -> NDArray[Any]:
    """Take the answers themselves, which come alone or before others."""
    found = prediction.predictions
    return np.asarray(found[0] if isinstance(found, tuple) else found)


def declared_readout(encoder: str, load: Callable[[str], RoutedModel]) -> str:
    """Name the read-out that an encoder was trained for, as sentence-transformers writes it beside the weights.

    Args:
        encoder: Its directory, or its name, of which nothing is known.
        load: As of :class:`Trial`.

    Returns:
        The mean where the files say so and the encoder's head can read it, else the first token.
    """
    try:
        declared = json.loads((Path(encoder) / POOLING).read_text(encoding="utf-8"))
        if declared["pooling_mode_mean_tokens"] is True:
            load(MEAN)
            return MEAN
    except (OSError, ValueError, KeyError, TypeError):  # of which InputError is one
        pass
    return FIRST


@dataclass(frozen=True)
class Trial:
    """Fine-tunes the encoder with each read-out, for two epochs on 2,000 rows at most.

    Attributes:
        load: Loads the encoder with a read-out, and nothing but the full network.
        rows: Tokenised training rows.
        judging: Those that judge.
        collate: Pads rows.
        job: The whole training's settings: seed, rate, size of batches.
        measure: Of answers: :func:`accuracy_of` or :func:`error_of`.
    """

    load: Callable[[str], RoutedModel]
    rows: Any
    judging: Any
    collate: Any
    job: Any
    measure: Callable[[EvalPrediction], dict[str, float]] = accuracy_of

    def readout(self, folder: Path) -> str:
        """Name the better read-out; the first token where they are alike, or where the encoder has no choice.

        Args:
            folder: Where the result is kept.
        """
        file = folder / RESULT
        known = from_first(lambda: file.read_text(encoding="utf-8") if self.job.resume and file.is_file() else None)
        if known is not None:
            return known
        scores = {readout: self._score(readout, folder / "trial") for readout in (FIRST, MEAN)}
        best = max(scores, key=lambda readout: scores[readout])

        def keep() -> str:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(best, encoding="utf-8")
            return best

        return from_first(keep)

    def _score(self, readout: str, folder: Path) -> float:
        try:
            model = self.load(readout)
        except InputError:
            return -math.inf
        order = np.random.default_rng(self.job.seed).permutation(len(self.rows))[:MOST_ROWS]
        trainer = SharcsTrainer(
            model=model,
            args=SharcsTrainingArguments(
                str(folder),
                num_train_epochs=EPOCHS,
                learning_rate=self.job.learning_rate,
                per_device_train_batch_size=self.job.batch_size // process_count(),
                use_cpu=on_cpus(),
                log_level_replica="error",
                seed=self.job.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=self.rows.select(np.sort(order)),
            eval_dataset=self.judging,
            data_collator=self.collate,
            compute_metrics=self.measure,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found = trainer.evaluate()
        return float(found["eval_accuracy"] if self.measure is accuracy_of else -found["eval_error"])
