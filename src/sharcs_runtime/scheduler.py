"""Many texts through a routed network: tokenised ahead, batched by length, pooled by width across batches.

What runs the network, and its tensors, are a subclass's affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np

from sharcs_runtime.background import in_background
from sharcs_runtime.policy import blended, confidence, softmax, unsure
from sharcs_runtime.pool import Array, Flags, Numbers, Pool, padded

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from sharcs_runtime.policy import Floats, RoutingPolicy

    Text = str | tuple[str, str]

__all__ = ["BATCH_TOKENS", "PooledEngine", "Prediction", "Routing", "Tokens", "WholeAnswers"]


# Tokens of a batch on a CPU: benchmarks/batch_tokens.py compares them.
BATCH_TOKENS = 2048


class Prediction(NamedTuple):
    """The answer to one input.

    Attributes:
        class_index: Index into the configuration's ``id2label``.
        score: The class's probability, from 0 to 1.
        width_index: Index into the configuration's ``widths`` of the sub-network that answered.
        first_width_index: The same of the sub-network that ran first; another one where the input escalated.
    """

    class_index: int
    score: float
    width_index: int
    first_width_index: int


class Routing(NamedTuple):
    """What decides an input's way.

    Attributes:
        policy: The routing policy.
        problem_type: As in Hugging Face configurations.
        full_index: Index of the full width, the last one.
    """

    policy: RoutingPolicy
    problem_type: str | None
    full_index: int

    def goes_on(self, logits: Floats, first: Numbers) -> Flags:
        """Tell which answers, logits ``[batch, labels]`` of widths ``[batch]``, are not sure enough to stand."""
        if not self.policy.escalates:
            return np.zeros(first.shape, np.bool_)
        return unsure(confidence(logits, self.problem_type), first, self.full_index, self.policy)

    def blended(self, full: Floats, narrow: Floats) -> Floats:
        """Answer inputs that went on: logits ``[batch, labels]``, from both of theirs."""
        return blended(full, narrow, self.policy, self.problem_type)


class WholeAnswers(NamedTuple):
    """The answers to a batch that ran from tokens to logits at once.

    Attributes:
        logits: ``[batch, labels]``.
        last: Index of the width that answered, ``[batch]``.
        first: Of the one that ran first, ``[batch]``.
    """

    logits: Floats
    last: Numbers
    first: Numbers


class Tokens:
    """The tokens of a window, flat: a list of Python numbers for each input would take far more memory.

    Args:
        encoded: For each of the network's inputs, a list of numbers for each text.
        padding: What each of the inputs is padded with.

    Attributes:
        lengths: Tokens of each text, ``[texts]``.
    """

    def __init__(self, encoded: dict[str, list[list[int]]], padding: dict[str, int]) -> None:
        """Lay them out."""
        rows = encoded["input_ids"]
        self.lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        self._starts = np.cumsum(self.lengths) - self.lengths
        total = int(self.lengths.sum())
        self._flat = {
            name: np.fromiter(chain.from_iterable(values), np.int64, total) for name, values in encoded.items()
        }
        self._padding = padding

    def batch(self, rows: Numbers) -> tuple[dict[str, Numbers], Flags]:
        """Pad some texts to the longest of them: the network's inputs ``[batch, tokens]``, and what of them is real.

        The attention mask is among the inputs.
        """
        positions, real = padded(self._starts[rows], self.lengths[rows])
        arrays = {name: np.where(real, flat[positions], self._padding[name]) for name, flat in self._flat.items()}
        arrays["attention_mask"] = real.astype(np.int64)
        return arrays, real


class PooledEngine(ABC, Generic[Array]):
    """Answers streams of texts of any length, in constant memory.

    A window of inputs at a time is tokenised in the background and ordered by length. Batches are filled by their
    number of tokens and run through the trunk (embeddings, layers 1..k, router). The inputs' outputs of layer k wait
    in a pool for each width until they fill a batch for its sub-network; answers that the policy finds unsure go on
    to the pool of the full width. At most ``batch_tokens`` tokens wait a width, and one batch more.

    Args:
        forced: Whether all inputs run at one width, so that there is nothing to pool.
        batch_tokens: Tokens of a batch, padding included. A longer input is a batch of its own.
        window: Inputs that are ordered together. More pad less, and are kept in memory.
    """

    def __init__(self, *, forced: bool, batch_tokens: int, window: int) -> None:
        """Take over the settings."""
        self._forced = forced
        self.batch_tokens = batch_tokens
        self.window = window

    def predict(self, texts: Iterable[Text]) -> Generator[Prediction, None, None]:
        """Answer texts, or pairs of texts, in their order.

        Args:
            texts: All strings, or all pairs of strings. After the first window, another thread iterates over them.

        Yields:
            An answer for each. An error of ``texts`` comes out here. Closing the generator stops the thread.

        Raises:
            InputError: If the tokenizer's length leaves no room for text.
        """
        source = iter(texts)
        first = list(islice(source, self.window))
        if len(first) < self.window:
            # All there is: a thread would have nothing to do ahead, and cost more than a short text.
            yield from self._answer(self._tokenise(first)) if first else ()
            return
        windows = iter(lambda: list(islice(source, self.window)), [])
        with closing(self.predict_windows(chain([first], windows))) as answers:
            for window in answers:
                yield from window

    def predict_windows(self, windows: Iterable[list[Text]]) -> Generator[list[Prediction], None, None]:
        """Answer inputs that come in windows already, a list of answers for each; else as :meth:`predict`."""
        with closing(in_background(map(self._tokenise, windows))) as ahead:
            for tokens in ahead:
                yield self._answer(tokens)

    @abstractmethod
    def _tokenise(self, window: list[Text]) -> Tokens:
        """Turn texts into the network's inputs."""

    @abstractmethod
    def _routing(self) -> Routing:
        """Look up what decides the inputs' way."""

    @abstractmethod
    def _whole(self, inputs: dict[str, Numbers]) -> WholeAnswers:
        """Answer inputs of one width, or one input, by themselves."""

    def _trunk(self, inputs: dict[str, Numbers]) -> tuple[Array, Numbers]:
        """Run embeddings, layers 1..k and the router: the former's output, and the chosen widths ``[batch]``.

        Nobody calls it, nor the tail, where all inputs run at one width.
        """
        raise NotImplementedError

    def _tail(self, index: int, hidden: Array, real: Flags) -> Floats:
        """Run the rest at a width: logits ``[batch, labels]``."""
        raise NotImplementedError

    def _pool(self) -> Pool[Array]:
        return Pool()

    def _answer(self, tokens: Tokens) -> list[Prediction]:
        routing = self._routing()
        answers = _Answers(len(tokens.lengths), routing)
        order = np.argsort(-tokens.lengths, kind="stable")
        pools = [self._pool() for _ in range(routing.full_index + 1)]
        start = 0
        while start < len(order):
            count = max(1, self.batch_tokens // max(1, int(tokens.lengths[order[start]])))
            rows = order[start : start + count]
            start += count
            inputs, real = tokens.batch(rows)
            if self._forced or len(order) == 1:
                whole = self._whole(inputs)
                answers.begin(rows, whole.first)
                answers.put(rows, whole.logits, whole.last)
                continue
            hidden, widths = self._trunk(inputs)
            answers.begin(rows, widths)
            for index in np.unique(widths):
                pools[index].add(rows, hidden, real, widths == index)
                self._run_pool(pools, index, answers)
        for index in range(len(pools)):  # the full width last: others add to it
            self._run_pool(pools, index, answers, to_the_end=True)
        return answers.as_list()

    def _run_pool(self, pools: list[Pool[Array]], index: int, answers: _Answers, to_the_end: bool = False) -> None:
        """Run a pool's inputs in batches, as long as they fill one."""
        full = len(pools) - 1
        while len(pools[index]) and (to_the_end or pools[index].padded_tokens >= self.batch_tokens):
            rows, hidden, real = pools[index].take(self.batch_tokens)
            logits = self._tail(index, hidden, real)
            if index == full:
                answers.put(rows, answers.blended(rows, logits), np.full(rows.shape, index))
                continue
            answers.put(rows, logits, np.full(rows.shape, index))
            goes_on = answers.routing.goes_on(logits, np.full(rows.shape, index))
            if goes_on.any():
                answers.keep(rows[goes_on], logits[goes_on])
                pools[full].add(rows, hidden, real, goes_on)
                self._run_pool(pools, full, answers)


class _Answers:
    """The answers to a window, as they come."""

    def __init__(self, count: int, routing: Routing) -> None:
        self.routing = routing
        self._classes, self._widths, self._first = (np.zeros(count, np.int64) for _ in range(3))
        self._scores = np.zeros(count, np.float64)
        self._narrow: Any = None  # logits of the inputs that go on, where they are to be blended

    def begin(self, rows: Numbers, widths: Numbers) -> None:
        """Note at which width inputs begin."""
        self._first[rows] = widths

    def put(self, rows: Numbers, logits: Floats, widths: Numbers) -> None:
        """Note answers; later ones replace them."""
        probabilities = softmax(logits)
        self._classes[rows] = probabilities.argmax(axis=-1)
        self._scores[rows] = probabilities.max(axis=-1)
        self._widths[rows] = widths

    def keep(self, rows: Numbers, logits: Floats) -> None:
        """Keep the narrow answers of inputs that go on."""
        if self.routing.policy.blend == 0:
            return
        if self._narrow is None:
            self._narrow = np.zeros((len(self._classes), logits.shape[1]), np.float32)
        self._narrow[rows] = logits

    def blended(self, rows: Numbers, logits: Floats) -> Floats:
        """Blend full answers with the narrow ones of the inputs that had one."""
        if self._narrow is None:
            return logits
        went_on = (self._first[rows] < self.routing.full_index)[:, None]
        return np.where(went_on, self.routing.blended(logits, self._narrow[rows]), logits)

    def as_list(self) -> list[Prediction]:
        """List them in input order."""
        columns = (self._classes, self._scores, self._widths, self._first)
        return [Prediction(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
