"""Many texts through a routed network: tokenised ahead, batched by length, pooled by width across batches.

What runs the network, and its tensors, are a subclass's affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Generic

import numpy as np

from sharcs_runtime.answers import Answers
from sharcs_runtime.background import in_background
from sharcs_runtime.errors import InputError
from sharcs_runtime.policy import ROUTER
from sharcs_runtime.pool import Array, Flags, Numbers, Pool
from sharcs_runtime.tokens import checked_texts, distinct, first_of_each

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from sharcs_runtime.answers import Answer, Prediction
    from sharcs_runtime.cascade import Cascade, Routing
    from sharcs_runtime.policy import Floats, RoutingPolicy
    from sharcs_runtime.tokens import Text, Tokens

    # Which of some rows somebody still waits for, bool ``[rows]``.
    Wanted = Callable[[Numbers], Flags]

# Tokens of a batch on a CPU: benchmarks/batch_tokens.py compares them.
BATCH_TOKENS = 2048


class PooledEngine(ABC, Generic[Array]):
    """Answers streams of texts of any length, in constant memory.

    A window of inputs at a time is tokenised in the background and ordered by length. Sub-networks that answer before
    the encoder runs answer all of it, or all of it that the one before was unsure of. Batches of the rest are filled
    by their number of tokens and run through the trunk (embeddings, layers 1..k, router). The inputs' outputs of
    layer k wait in a pool for each width until they fill a batch for its sub-network; answers that the policy finds
    unsure go on to the pool of the full width. At most ``batch_tokens`` tokens wait a width, and one batch more.
    Equal texts of a window are answered once.

    Args:
        forced: Whether all inputs run at one width, so that there is nothing to pool.
        batch_tokens: Tokens of a batch, padding included. A longer input is a batch of its own.
        window: Inputs that are ordered together. More pad less, and are kept in memory.
    """

    def __init__(self, *, forced: bool, batch_tokens: int, window: int) -> None:
        """Take over the settings."""
        if type(batch_tokens) is not int or type(window) is not int:
            raise InputError(f"batch_tokens {batch_tokens!r}, window {window!r}: have to be whole numbers")
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
        with closing(self._windows(texts)) as windows:
            for window in windows:
                yield from window.predictions()

    def answers(self, texts: Iterable[Text], *, top_k: int | None = None) -> Generator[Answer, None, None]:
        """Answer texts as :meth:`predict` does, with scores of several classes, tokens and cost.

        Args:
            texts: See there.
            top_k: How many classes of each text, the most probable first; all by default.

        Raises:
            InputError: As there, and if ``top_k`` is below 1.
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k {top_k}: has to be at least 1")
        with closing(self._windows(texts)) as windows:
            for window in windows:
                yield from window.ranked(top_k)

    def stream(
        self,
        texts: Sequence[Text],
        policies: Sequence[RoutingPolicy] | None = None,
        wanted: Wanted | None = None,
    ) -> Generator[tuple[Numbers, Answers], None, None]:
        """Answer a few texts, each as soon as its answer stands: narrow answers before the full network runs.

        Args:
            texts: One window of them: all strings, or all pairs of strings.
            policies: One for each text, of any kind; by default the engine's own. One that names a sub-network as
                start and no threshold forces it.
            wanted: Asked before a sub-network runs which of some texts, by number, are still wanted; the others are
                given up. By default all are.

        Yields:
            Numbers of texts, counted from 0, and their answers. No text comes twice.

        Raises:
            InputError: As for :meth:`predict`, and if a policy names a sub-network that the network hasn't.
        """
        routing = self._routing()
        for policy in dict.fromkeys(policies or ()):
            policy.check_names(routing.names)
        checked = list(checked_texts(texts))
        if not checked:
            return
        of = distinct(checked if policies is None else list(zip(checked, policies, strict=True)))
        firsts = first_of_each(of)
        tokens = self._tokenise([checked[number] for number in firsts])
        cascade = routing.cascade(len(firsts), policies and [policies[number] for number in firsts])

        def texts_of(rows: Numbers) -> Numbers:
            return np.sort(rows) if len(firsts) == len(of) else np.flatnonzero(np.isin(of, rows))

        def any_wanted(rows: Numbers) -> Flags:
            assert wanted is not None
            numbers = texts_of(rows)
            return np.isin(rows, of[numbers[wanted(numbers)]])

        for rows in self._steps(tokens, cascade, any_wanted if wanted else None, own_policy=policies is None):
            if len(rows):  # else all that ran go on
                numbers = texts_of(rows)
                yield numbers, Answers.of(cascade, of[numbers], tokens.lengths, routing.costs, routing.front)

    def answer_windows(self, windows: Iterable[list[Text]]) -> Generator[Answers, None, None]:
        """Answer inputs that come in windows already; else as :meth:`predict`."""
        yield from self._answer_all(list(checked_texts(window)) for window in windows)

    def _answer_all(self, windows: Iterable[list[Text]]) -> Generator[Answers, None, None]:
        """Answer windows of checked texts, each read while the one before it is answered."""
        with closing(in_background(map(self._read, windows))) as ahead:
            for read in ahead:
                yield self._answer(read)

    def count_cut(self, texts: Sequence[Text], tokens: Numbers) -> int:
        """Count texts that have more tokens than are read, so that a part of them had no say.

        Args:
            texts: All strings, or all pairs of strings.
            tokens: How many tokens of each were read, ``[texts]``.
        """
        filled = [texts[row] for row in np.flatnonzero(tokens >= self.max_length).tolist()]
        parts = [filled[start : start + self.window] for start in range(0, len(filled), self.window)]
        return sum(int(self._tokenise(part).cut.sum()) for part in parts)

    @property
    @abstractmethod
    def max_length(self) -> int:
        """The most tokens of a text that are read."""

    def _windows(self, texts: Iterable[Text]) -> Generator[Answers, None, None]:
        source = checked_texts(texts)
        first = list(islice(source, self.window))
        if len(first) < self.window:
            # All there is: a thread would have nothing to do ahead, and cost more than a short text.
            if first:
                yield self._answer(self._read(first))
            return
        windows = iter(lambda: list(islice(source, self.window)), [])
        with closing(self._answer_all(chain([first], windows))) as answers:
            yield from answers

    def _read(self, window: list[Text]) -> tuple[Tokens, Numbers]:
        """Tokenise the distinct texts of a window, and tell which of them each text is."""
        of = distinct(window)
        return self._tokenise([window[number] for number in first_of_each(of)]), of

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

    def _trunk(self, inputs: dict[str, Numbers], routes: bool) -> tuple[Array, Array | None]:
        """Run embeddings and layers 1..k: their output, and the router's logits if it ``routes``.

        Nobody calls it, nor the tail, where all inputs run at one width.
        """
        raise NotImplementedError

    def _choose(self, policy: RoutingPolicy, router_logits: Array, lengths: Numbers) -> Numbers:
        """Let the router say where inputs of some lengths start, ``[batch]``."""
        raise NotImplementedError

    def _tail(self, index: int, hidden: Array, real: Flags) -> Floats:
        """Run the rest at a width: logits ``[batch, labels]``."""
        raise NotImplementedError

    def _pool(self) -> Pool[Array]:
        return Pool()

    def _answer(self, read: tuple[Tokens, Numbers]) -> Answers:
        """Answer a window: its distinct texts, and then each of its texts."""
        tokens, of = read
        routing = self._routing()
        cascade = routing.cascade(len(tokens.lengths))
        for _ in self._steps(tokens, cascade):
            pass
        everything = np.arange(len(tokens.lengths))
        answers = Answers.of(cascade, everything, tokens.lengths, routing.costs, routing.front)
        return answers if len(of) == len(answers) else answers.take(of)

    def _steps(
        self, tokens: Tokens, cascade: Cascade, wanted: Wanted | None = None, own_policy: bool = True
    ) -> Iterator[Numbers]:
        """Run what a cascade asks for, and yield rows whose answers stand.

        Args:
            tokens: Of all rows.
            cascade: Decides.
            wanted: Which rows to go on with.
            own_policy: Whether the policy is the engine's own, which decides for all.
        """
        order = np.argsort(-tokens.lengths, kind="stable")
        if self._forced or (len(order) == 1 and own_policy):
            for rows in self._batches(order, tokens):
                self._whole(tokens.batch(rows)[0], rows, cascade)
                yield rows
            return
        for index in range(self._routing().front):
            for rows in self._batches(order[cascade.next_of(order) == index], tokens):
                escalates = cascade.put(index, rows, self._front(index, tokens.batch(rows)[0]))
                yield rows[~escalates]
        order = order[(cascade.answered_by[order] < 0) | (cascade.next_of(order) >= 0)]
        yield from self._inside(order, tokens, cascade, wanted)

    def _batches(self, order: Numbers, tokens: Tokens) -> Iterator[Numbers]:
        """Cut rows that are ordered by length into batches."""
        start = 0
        while start < len(order):
            count = max(1, self.batch_tokens // max(1, int(tokens.lengths[order[start]])))
            yield order[start : start + count]
            start += count

    def _inside(self, order: Numbers, tokens: Tokens, cascade: Cascade, wanted: Wanted | None) -> Iterator[Numbers]:
        """Answer rows by the encoder's sub-networks."""
        pools = [self._pool() for _ in cascade.names]
        for rows in self._batches(order, tokens):
            inputs, real = tokens.batch(rows)
            unrouted = cascade.next_of(rows) < 0
            hidden, router_logits = self._trunk(inputs, bool(unrouted.any()))
            for policy, at in cascade.groups(rows) if router_logits is not None else ():
                if policy.start == ROUTER:
                    chosen = self._choose(policy, router_logits[at], tokens.lengths[rows[at]])  # type: ignore[index]
                    cascade.begin(rows[at], chosen)
            widths = cascade.next_of(rows)
            for index in np.unique(widths):
                pools[index].add(rows, hidden, real, widths == index)
                yield from self._run_pool(pools, int(index), cascade, wanted)
        for index in range(len(pools)):  # the full network last: others add to it
            yield from self._run_pool(pools, index, cascade, wanted, to_the_end=True)

    def _run_pool(
        self,
        pools: list[Pool[Array]],
        index: int,
        cascade: Cascade,
        wanted: Wanted | None,
        to_the_end: bool = False,
    ) -> Iterator[Numbers]:
        """Run a pool's inputs in batches, as long as they fill one."""
        while len(pools[index]) and (to_the_end or pools[index].padded_tokens >= self.batch_tokens):
            rows, hidden, real = pools[index].take(self.batch_tokens)
            if wanted is not None:
                kept = np.flatnonzero(wanted(rows))
                rows, hidden, real = rows[kept], pools[index].select(hidden, kept), real[kept]
                if not len(rows):
                    continue
            escalates = cascade.put(index, rows, self._tail(index, hidden, real))
            yield rows[~escalates]
            later = cascade.next_of(rows)
            for number in np.unique(later[escalates]):
                pools[number].add(rows, hidden, real, later == number)
                yield from self._run_pool(pools, int(number), cascade, wanted)
