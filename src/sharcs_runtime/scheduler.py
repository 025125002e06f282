"""Many texts through a routed network: tokenised ahead, batched by length, pooled by width across batches.

What runs the network, and its tensors, are a subclass's affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Generic, NamedTuple

import numpy as np

from sharcs_runtime.background import in_background
from sharcs_runtime.cascade import Cascade
from sharcs_runtime.errors import InputError
from sharcs_runtime.policy import ROUTER
from sharcs_runtime.pool import Array, Flags, Numbers, Pool, padded
from sharcs_runtime.scores import softmax

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from sharcs_runtime.policy import Floats, RoutingPolicy

    Text = str | tuple[str, str]

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
        names: Of the sub-networks, the cheapest first, the full one last.
        front: How many of them answer before the encoder runs; they come first.
    """

    policy: RoutingPolicy
    problem_type: str | None
    names: list[str]
    front: int = 0

    @property
    def start(self) -> int | None:
        """The sub-network that all inputs run first; None where the router says it of each."""
        return None if self.policy.start == ROUTER else self.names.index(self.policy.start)

    def cascade(self, count: int) -> Cascade:
        """Begin to decide for some inputs."""
        return Cascade(self.policy, self.names, count, self.problem_type)


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

    A window of inputs at a time is tokenised in the background and ordered by length. Sub-networks that answer before
    the encoder runs answer all of it, or all of it that the one before was unsure of. Batches of the rest are filled
    by their number of tokens and run through the trunk (embeddings, layers 1..k, router). The inputs' outputs of
    layer k wait in a pool for each width until they fill a batch for its sub-network; answers that the policy finds
    unsure go on to the pool of the full width. At most ``batch_tokens`` tokens wait a width, and one batch more.

    Args:
        forced: Whether all inputs run at one width, so that there is nothing to pool.
        batch_tokens: Tokens of a batch, padding included. A longer input is a batch of its own.
        window: Inputs that are ordered together. More pad less, and are kept in memory.
    """

    def __init__(self, *, forced: bool, batch_tokens: int, window: int) -> None:
        """Take over the settings."""
        if batch_tokens < 1 or window < 1:
            raise InputError(f"batch_tokens {batch_tokens}, window {window}: have to be at least 1")
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
            InputError: If the tokenizer's length leaves no room for text, it is one text and no series of them, or
                something among them is none; the message counts from 1.
        """
        if isinstance(texts, str):
            raise InputError("texts: is one text, whose letters would be answered one by one; give a list")
        source = _checked(texts)
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
    def _whole(self, inputs: dict[str, Numbers], rows: Numbers, cascade: Cascade) -> None:
        """Answer inputs of one width, or one input, by themselves: ``rows`` of the cascade."""

    def _front(self, index: int, inputs: dict[str, Numbers]) -> Floats:
        """Run a sub-network that answers before the encoder runs: logits ``[batch, labels]``."""
        raise NotImplementedError

    def _trunk(self, inputs: dict[str, Numbers], start: int | None) -> tuple[Array, Numbers]:
        """Run embeddings and layers 1..k: their output, and the sub-network of each input, int64 ``[batch]``.

        That is ``start``, or what the router says where it is None. Nobody calls it, nor the tail, where all inputs
        run at one width.
        """
        raise NotImplementedError

    def _tail(self, index: int, hidden: Array, real: Flags) -> Floats:
        """Run the rest at a width: logits ``[batch, labels]``."""
        raise NotImplementedError

    def _pool(self) -> Pool[Array]:
        return Pool()

    def _answer(self, tokens: Tokens) -> list[Prediction]:
        routing = self._routing()
        cascade = routing.cascade(len(tokens.lengths))
        order = np.argsort(-tokens.lengths, kind="stable")
        if self._forced or len(order) == 1:
            for rows in self._batches(order, tokens):
                self._whole(tokens.batch(rows)[0], rows, cascade)
            return _predictions(cascade)
        start = routing.start
        while start is not None and start < routing.front and len(order):
            order, start = self._answer_in_front(start, order, tokens, cascade), cascade.next_after(start)
        self._answer_inside(order, start, tokens, cascade)
        return _predictions(cascade)

    def _batches(self, order: Numbers, tokens: Tokens) -> Iterator[Numbers]:
        """Cut rows that are ordered by length into batches."""
        start = 0
        while start < len(order):
            count = max(1, self.batch_tokens // max(1, int(tokens.lengths[order[start]])))
            yield order[start : start + count]
            start += count

    def _answer_in_front(self, index: int, order: Numbers, tokens: Tokens, cascade: Cascade) -> Numbers:
        """Let a sub-network answer before the encoder runs: the rows that go on, in their order."""
        left = []
        for rows in self._batches(order, tokens):
            if cascade.start[rows[0]] < 0:  # the first one; the others go on
                cascade.begin(rows, index)
            left.append(rows[cascade.put(index, rows, self._front(index, tokens.batch(rows)[0]))])
        return np.concatenate(left)

    def _answer_inside(self, order: Numbers, start: int | None, tokens: Tokens, cascade: Cascade) -> None:
        """Answer rows by the encoder's sub-networks."""
        pools = [self._pool() for _ in cascade.names]
        for rows in self._batches(order, tokens):
            inputs, real = tokens.batch(rows)
            hidden, widths = self._trunk(inputs, start)
            if cascade.start[rows[0]] < 0:
                cascade.begin(rows, widths)
            for index in np.unique(widths):
                pools[index].add(rows, hidden, real, widths == index)
                self._run_pool(pools, int(index), cascade)
        for index in range(len(pools)):  # the full network last: others add to it
            self._run_pool(pools, index, cascade, to_the_end=True)

    def _run_pool(self, pools: list[Pool[Array]], index: int, cascade: Cascade, to_the_end: bool = False) -> None:
        """Run a pool's inputs in batches, as long as they fill one."""
        while len(pools[index]) and (to_the_end or pools[index].padded_tokens >= self.batch_tokens):
            rows, hidden, real = pools[index].take(self.batch_tokens)
            escalates = cascade.put(index, rows, self._tail(index, hidden, real))
            if escalates.any():
                later = cascade.next_after(index)
                pools[later].add(rows, hidden, real, escalates)
                self._run_pool(pools, later, cascade)


def _checked(texts: Iterable[Text]) -> Iterator[Text]:
    """Pass texts on, and stop at what is none."""
    for number, text in enumerate(texts, 1):
        parts = text if isinstance(text, tuple) else (text,)
        if not all(isinstance(part, str) for part in parts) or len(parts) > 2:
            raise InputError(f"texts: number {number} is a {type(text).__name__}; give strings, or tuples of two")
        yield text


def _predictions(cascade: Cascade) -> list[Prediction]:
    """List the answers in input order."""
    assert cascade.logits is not None
    probabilities = softmax(cascade.logits)
    classes = probabilities.argmax(axis=-1).tolist()
    scores = probabilities.max(axis=-1).astype(np.float64).tolist()
    return [
        Prediction(*row)
        for row in zip(classes, scores, cascade.answered_by.tolist(), cascade.start.tolist(), strict=True)
    ]
