"""What a fitted classifier does: answers texts by its policy, and takes another policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score

from sharcs.calibration.calibrate import calibrate
from sharcs.calibration.choice import constraint_of
from sharcs.config import BLEND, policy_for_budget
from sharcs.data.given import sets_given, texts_given
from sharcs.errors import InputError
from sharcs.inference.engine import InferenceEngine
from sharcs.inference.predict import class_names
from sharcs.jobs.answers import all_answers
from sharcs.jobs.given import text_data
from sharcs.stored import evidence_of
from sharcs_runtime.answers import typed_labels
from sharcs_runtime.scores import MULTI_LABEL

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from sharcs.inference.folder import TrainedModel
    from sharcs.stored import Evidence
    from sharcs_runtime.answers import Answers


class RoutedAnswers:
    """Answers of a trained model, in the type of the labels.

    Attributes:
        classes_: The classes, ascending, ``[classes]``.
        trained_: Model and tokenizer.
    """

    trained_: TrainedModel
    classes_: NDArray[Any]

    def _take(self, trained: TrainedModel) -> Self:
        """Answer by a trained model from here on."""
        self.trained_ = trained
        config = trained.model.config
        labels = np.array(typed_labels(class_names(config), config.label_type))
        self.classes_, self._order = np.unique(labels, return_index=True)
        self._engine = InferenceEngine(trained.model, trained.tokenizer)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is something to answer by."""
        return hasattr(self, "trained_")

    def _html_repr(self) -> str:
        """Show in a notebook scikit-learn's diagram and, of a fitted one, what is known of its policy."""
        diagram: str = super()._html_repr()  # type: ignore[misc]  # of scikit-learn's class, which stands behind it
        return f"{diagram}{self.calibration_._repr_html_()}" if self.__sklearn_is_fitted__() else diagram

    def _fitted(self) -> TrainedModel:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError("this Classifier is not fitted yet; call fit first, or load a saved one")
        return self.trained_

    def _answers(self, texts: Any) -> list[Answers]:
        self._fitted()
        given, window = texts_given(texts), self._engine.window
        windows = (given[start : start + window] for start in range(0, len(given), window))
        return list(self._engine.answer_windows(windows))

    def predict_proba(self, texts: Any) -> NDArray[np.float32]:
        """Say how probable each class is, by the sub-network that answers.

        Args:
            texts: As for :meth:`fit`.

        Returns:
            ``[texts, classes]``, in the order of ``classes_``.

        Raises:
            NotFittedError: Before :meth:`fit`.
            InputError: If a text is none; the message counts from 1.
        """
        found = [answers.probabilities for answers in self._answers(texts)]
        none = np.zeros((0, len(self.classes_)), np.float32)
        return np.concatenate([none, *(part[:, self._order] for part in found)])

    def predict(self, texts: Any, *, abstain_below: float | None = None) -> NDArray[Any]:
        """Name the class of each text, in the type of the labels; see :meth:`predict_proba`.

        Where answers are sets of labels, it says which: zeros and ones ``[texts, labels]``, by ``classes_``.

        Args:
            texts: As for :meth:`fit`.
            abstain_below: Where the class is less probable than this the answer is None, in an array of objects.
        """
        scores = self.predict_proba(texts)
        if self._says_sets:
            if abstain_below is not None:
                raise InputError("abstain_below: a row of zeros and ones has no empty answer; leave it out")
            return (scores > 0.5).astype(np.int64)
        chosen: NDArray[Any] = self.classes_[scores.argmax(axis=1)]
        if abstain_below is not None:
            chosen = chosen.astype(object)
            chosen[scores.max(axis=1) < abstain_below] = None
        return chosen

    @property
    def _says_sets(self) -> bool:
        return bool(self._fitted().model.problem_type == MULTI_LABEL)

    def score(self, texts: Any, labels: Any, sample_weight: Any = None) -> float:
        """Measure how often the answer is right: of sets of labels, the whole set.

        Args:
            texts: As for :meth:`fit`.
            labels: The same.
            sample_weight: What each text counts, ``[texts]``.
        """
        said, truth = self.predict(texts), labels
        if self._says_sets:
            sets, _ = sets_given(labels, len(said))
            truth = np.array([[label in of for label in self.classes_.tolist()] for of in sets], np.int64)
        return float(accuracy_score(truth, said, sample_weight=sample_weight))

    def costs(self, texts: Any) -> NDArray[np.float64]:
        """Say what each text takes: FLOPs over the full network's, ``[texts]``; see :meth:`predict_proba`."""
        return np.concatenate([np.zeros(0), *(answers.cost for answers in self._answers(texts))])

    def calibrate(
        self,
        texts: Any,
        labels: Any = None,
        *,
        budget: float | None = None,
        max_accuracy_drop: float | None = None,
        max_disagreement: float | None = None,
        confidence: float = 0.95,
    ) -> Self:
        """Choose another policy, as ``sharcs calibrate`` does: on texts that nothing was trained on.

        Args:
            texts: As for :meth:`fit`, like those to come.
            labels: Their classes, which ``max_accuracy_drop`` needs.
            budget: See the class; one of these three is given.
            max_accuracy_drop: The same.
            max_disagreement: The same.
            confidence: Probability that a policy that is chosen keeps the limit.

        Raises:
            NotFittedError: Before :meth:`fit`.
            InputError: If no limit is given, or several, or texts or labels are not right.
        """
        trained = self._fitted()
        limits = {"budget": budget, "max_accuracy_drop": max_accuracy_drop, "max_disagreement": max_disagreement}
        constraint = constraint_of(limits, confidence)
        if constraint is None:
            raise InputError(f"none of {', '.join(limits)} given; give exactly one")
        data = text_data(texts, labels, known=trained.model.config.class_indices)
        answers = all_answers(trained, data, labelled=labels is not None, blend=BLEND)
        found = calibrate(answers, constraint, len(self.classes_))
        trained.model.config.policy, trained.model.config.calibration = found.policy.to_dict(), found.record()
        return self

    def set_budget(self, budget: float) -> Self:
        """Route by the policy that the last calibration found for a budget, without a new one.

        Args:
            budget: Mean FLOPs over the full network's.

        Raises:
            NotFittedError: Before :meth:`fit`.
            InputError: If nothing was calibrated, or the cheapest policy costs more.
        """
        config = self._fitted().model.config
        config.policy = policy_for_budget(config.calibration, budget).to_dict()
        return self

    @property
    def calibration_(self) -> Evidence:
        """What is known of the policy that routes now."""
        config = self._fitted().model.config
        return evidence_of(config.routing_policy, config.calibration, config.promise)
