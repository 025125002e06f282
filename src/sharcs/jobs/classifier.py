"""A classifier of texts with ``fit`` and ``predict``, as scikit-learn has them: a layer over the training job."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator, ClassifierMixin
from transformers.utils import logging

from sharcs.calibration.choice import constraint_of
from sharcs.data.named import MINILM
from sharcs.data.texts import label_names
from sharcs.errors import InputError
from sharcs.inference import folder as artifacts
from sharcs.jobs.given import text_data, weighted
from sharcs.jobs.policy import RoutedAnswers
from sharcs.jobs.train import TrainingJob, run_training
from sharcs.spec import sub_networks_of
from sharcs_runtime.sessions import ONNX_RUNTIME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import TrainerCallback

    from sharcs_runtime.tokens import Text


class Classifier(RoutedAnswers, ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Fine-tunes an encoder on texts, and answers each with as much of it as it needs.

    What is trained, held out and promised is what ``sharcs train`` does with the same rows and settings. Where rows
    are too few to promise anything of cheap answers, which a warning says, every text goes through the whole network
    until :meth:`calibrate` has chosen a policy.

    Args:
        encoder: A local directory, a name on the hub, or ``minilm``.
        sub_networks: Cheapest first: ``lexical``, ``recurrent``, ``compact``, ascending widths, and ``full``;
            a list, or a string with commas; or ``auto``, in front whatever this machine runs fast enough. None for
            ``recurrent,compact,full``, or, where texts have sets of labels, ``0.25,full``.
        budget: Mean FLOPs over the full network's that the policy may spend.
        max_accuracy_drop: What it may lose against the full network.
        max_disagreement: Share of answers that may be others than the full network's. Of these three limits one is
            given at most.
        epochs: Passes over the texts; None for the default of the sub-networks, which grows where texts are few.
        learning_rate: Peak learning rate; None for the same.
        batch_size: Texts a training step.
        max_length: Tokens kept of a text.
        class_weight: ``balanced``, or weights by class: what classes weigh in the loss; others weigh 1.
        seed: Same seed and texts, same classifier.

    Attributes:
        classes_: The classes, ascending, in the type of the labels, ``[classes]``.
        trained_: Model and tokenizer.
    """

    def __init__(
        self,
        encoder: str = MINILM,
        sub_networks: str | Sequence[str | float] | None = None,
        *,
        budget: float | None = None,
        max_accuracy_drop: float | None = None,
        max_disagreement: float | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int = 32,
        max_length: int = 128,
        class_weight: str | dict[Any, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.encoder = encoder
        self.sub_networks = sub_networks
        self.budget = budget
        self.max_accuracy_drop = max_accuracy_drop
        self.max_disagreement = max_disagreement
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.class_weight = class_weight
        self.seed = seed

    def fit(
        self,
        texts: Any,
        labels: Any,
        *,
        sample_weight: Any = None,
        validation: tuple[Any, Any] | None = None,
        unlabelled: Any = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> Classifier:
        """Train.

        Args:
            texts: Strings or pairs of strings: a list, an array, a pandas, Arrow, polars or ``datasets`` column, or a
                table with a column ``text`` and for pairs ``text_pair``.
            labels: A class for each: strings, whole numbers or booleans. Or a set of labels for each: lists, or zeros
                and ones ``[texts, labels]``; then no sub-network can stand in front of the encoder.
            sample_weight: What each text counts in the full network's loss, ``[texts]``, from 0 on: 2 counts like two
                such texts, and 0 leaves a text out. Others learn from the full network's answers.
            validation: Texts and labels like those to come, which choose the policy; by default a tenth of the rows.
            unlabelled: More texts like those to come, for those in front of the encoder to learn from.
            callbacks: Of ``transformers``, to watch the training.

        Raises:
            InputError: If texts, labels or settings are not right, before anything is trained.
        """
        front, widths = sub_networks_of(self.sub_networks)
        limits = {name: getattr(self, name) for name in ("budget", "max_accuracy_drop", "max_disagreement")}
        train, held_out, more = text_data(texts, labels), None, None
        if sample_weight is not None:
            train = weighted(train, sample_weight)
        if validation is not None:
            with _named("validation"):
                held_out = text_data(*validation, known=label_names(train), name="validation")
        if unlabelled is not None:
            with _named("unlabelled"):
                more = text_data(unlabelled, name="unlabelled")
        limit = constraint_of(limits)
        weights = self.class_weight
        if isinstance(weights, Mapping):
            weights = {str(label): weight for label, weight in weights.items()}
        with tempfile.TemporaryDirectory(prefix="sharcs-") as work, _quiet():
            job = TrainingJob(
                data=train,
                output=Path(work) / "model",
                validation=held_out,
                unlabelled=more,
                model=self.encoder,
                widths=widths,
                front=front,
                limit=limit,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                batch_size=self.batch_size,
                max_length=self.max_length,
                class_weights=weights,
                seed=self.seed,
            )
            return self._take(run_training(job, list(callbacks)))

    def save(self, folder: str | Path) -> None:
        """Write a new directory that every command reads, and :meth:`load`.

        Raises:
            NotFittedError: Before :meth:`fit`.
            InputError: If it exists, or can't be written.
        """
        trained, folder = self._fitted(), Path(folder)
        columns = trained.columns
        settings = {
            "format": artifacts.FORMAT,
            "text_column": columns.text,
            "text_pair_column": columns.text_pair,
            "label_column": columns.label,
            "classifier": {"parameters": self.get_params()},
        }
        with artifacts.claimed_folder(folder), _quiet():
            artifacts.begin(folder, json.loads(json.dumps(settings)), resume=False)
            artifacts.finish(folder, trained.model, trained.tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> Classifier:
        """Read what :meth:`save` or ``sharcs train`` wrote.

        Raises:
            InputError: If there is no such thing.
        """
        trained = artifacts.open_model(folder)
        file = Path(folder) / artifacts.SETTINGS_FILE
        saved = json.loads(file.read_text(encoding="utf-8")).get("classifier", {}) if file.is_file() else {}
        return cls(**saved.get("parameters", {}))._take(trained)

    def export(
        self,
        folder: str | Path,
        *,
        int8: bool = False,
        int8_embeddings: bool = False,
        width: float | str | None = None,
        runtime: str = ONNX_RUNTIME,
        texts: Sequence[Text] | None = None,
    ) -> None:
        """Write an export, which runs without torch; see :func:`sharcs.export.bundle.export_model`."""
        from sharcs.export.bundle import export_model

        trained = self._fitted()
        export_model(
            trained.model,
            trained.tokenizer,
            Path(folder),
            width=width,
            int8=int8,
            int8_embeddings=int8_embeddings,
            runtime=runtime,
            texts=texts,
            columns=trained.columns,
        )

    def push_to_hub(self, name: str, **options: Any) -> None:
        """Put model, card and tokenizer on the hub.

        Args:
            name: The repository.
            **options: Of ``transformers``' ``push_to_hub``, such as ``private``.
        """
        trained = self._fitted()
        model: Any = trained.model  # its decorator hides the types
        model.push_to_hub(name, **options)
        trained.tokenizer.push_to_hub(name, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Hold settings, and of a fitted one the files that :meth:`save` writes."""
        state: dict[str, Any] = {"parameters": self.get_params(deep=False)}
        if self.__sklearn_is_fitted__():
            with tempfile.TemporaryDirectory(prefix="sharcs-") as work:
                self.save(Path(work) / "model")
                state["files"] = {file.name: file.read_bytes() for file in (Path(work) / "model").iterdir()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read them."""
        self.__dict__.update(state["parameters"])
        if "files" in state:
            with tempfile.TemporaryDirectory(prefix="sharcs-") as work:
                for name, content in state["files"].items():
                    (Path(work) / name).write_bytes(content)
                loaded = type(self).load(work)
            self._take(loaded.trained_)

    def __sklearn_tags__(self) -> Any:
        """Say that inputs are texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.classifier_tags.multi_label = True
        return tags


@contextmanager
def _named(argument: str) -> Iterator[None]:
    """Say of which argument a message speaks."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{argument}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' remarks and bars on files of ours to itself; the user's settings come back."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
