"""Exported networks on ONNX Runtime or OpenVINO."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sharcs_runtime.bundle import Bundle
from sharcs_runtime.cascade import Routing
from sharcs_runtime.errors import InputError, MissingPackageError, first_line
from sharcs_runtime.policy import RoutingPolicy, choose_width, relative_cost
from sharcs_runtime.scheduler import BATCH_TOKENS, PooledEngine
from sharcs_runtime.sessions import CPU, EXTRAS, open_session, version_of
from sharcs_runtime.tokens import Tokens, check_limit, checked_texts, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sharcs_runtime.cascade import Cascade
    from sharcs_runtime.policy import Floats
    from sharcs_runtime.pool import Flags, Numbers
    from sharcs_runtime.sessions import Session
    from sharcs_runtime.tokens import Text


class AllLogits(NamedTuple):
    """What every sub-network answers to a batch of texts.

    Attributes:
        rows: The texts' indices, ``[batch]``.
        lengths: Their tokens, ``[batch]``.
        logits: ``[networks, batch, labels]``.
        router_logits: ``[batch, networks]``; zeros of a dense model.
    """

    rows: Numbers
    lengths: Numbers
    logits: Floats
    router_logits: Floats


class OnnxRunner(PooledEngine[NDArray[np.float32]]):
    """Answers streams of texts by a network that ``sharcs export`` wrote, in constant memory.

    How texts are batched and pooled says :class:`~sharcs_runtime.scheduler.PooledEngine`. Answers don't depend on
    what an input is batched with, up to rounding; where ONNX Runtime runs graphs in int8 they do a little, because it
    scales a whole batch at once. What runs the graphs is the export's choice.

    Args:
        folder: The directory; routed, or one sub-network as a dense model.
        width: Forces one sub-network, by its width or its name; by default the policy routes.
        threads: That work on one batch; by default the runtime's choice.
        batch_tokens: Tokens of a batch, padding included. A longer input is a batch of its own.
        window: Inputs that are ordered together. More pad less, and are kept in memory.
        providers: ONNX Runtime's execution providers, the preferred first; what OpenVINO runs is on the processor.

    Attributes:
        labels: Class names by index.
        widths: The widths by index.
        config: The description of the export.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        width: float | str | None = None,
        threads: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        window: int = 2048,
        providers: Sequence[str] = CPU,
    ) -> None:
        """Load the graphs.

        Raises:
            InputError: If the directory holds no exported network, a broken one, or none of that width, or what runs
                it is not installed.
        """
        self.config = bundle = Bundle.read(folder)
        self.labels, self.widths = bundle.labels, bundle.widths
        self._index = None if width is None else bundle.index_of(width)
        super().__init__(forced=width is not None or bundle.trunk is None, batch_tokens=batch_tokens, window=window)
        needed = range(len(bundle.tails)) if self._index is None else [self._index]
        try:
            self._tokenizer = Tokenizer.from_file(str(bundle.tokenizer))
            self._trunk_session = None if bundle.trunk is None else self._open(bundle.trunk, threads, providers)
            self._tail_sessions = {index: self._open(bundle.tails[index], threads, providers) for index in needed}
        except ImportError as error:
            raise MissingPackageError(error, EXTRAS[bundle.runtime]) from error
        except Exception as error:  # both libraries raise whatever their Rust or C++ side makes of it
            raise InputError(f"{folder}: can't be loaded ({first_line(error)}); export again") from error
        self._check_fits()
        self._whole_tokenizer: Tokenizer | None = None

    def _open(self, file: Path, threads: int | None, providers: Sequence[str]) -> Session:
        return open_session(file, self.config.runtime_of(file), threads, providers)

    def _check_fits(self) -> None:
        """Refuse graphs and tokenizer that are not those of the description."""
        config, made = self.config, {*self.config.padding, "attention_mask"}
        fits = 0 <= config.padding["input_ids"] < self._tokenizer.get_vocab_size()
        if self._trunk_session is not None:
            fits &= {*self._trunk_session.inputs} == made
        for session in self._tail_sessions.values():
            fits &= {*session.inputs} <= {*made, "hidden"}
            fits &= session.outputs.get("logits", 0) in (len(config.labels), None)
        if not fits:
            raise InputError(f"{config.folder}: its graphs are not those that it describes; export again")

    @property
    def policy(self) -> RoutingPolicy:
        """The routing policy; another one may be put here."""
        return self.config.policy

    @policy.setter
    def policy(self, policy: RoutingPolicy) -> None:
        self.config = replace(self.config, policy=policy)

    @property
    def version(self) -> str:
        """Version of what runs the graphs."""
        return version_of(self.config.runtime)

    @property
    def width(self) -> float | str | None:
        """The sub-network that is forced, by its width or name."""
        return None if self._index is None else self.config.keys[self._index]

    def at_width(self, width: float | str) -> OnnxRunner:
        """Make a runner of the same graphs that forces one sub-network, by its width or its name.

        Raises:
            InputError: If the network has none of that width, or this runner forces another one.
        """
        index = self.config.index_of(width)
        if index not in self._tail_sessions:
            raise InputError(f"width {width}: this runner forces {self.width}; make one without a width")
        forced = copy.copy(self)
        forced._index, forced._forced = index, True
        return forced

    def run_all(self, texts: Sequence[Text]) -> Iterator[AllLogits]:
        """Run every sub-network on every text, in the windows and batches that :meth:`predict` begins with.

        Args:
            texts: All strings, or all pairs of strings.

        Yields:
            The answers of a batch.

        Raises:
            InputError: If this runner forces one sub-network.
        """
        if len(self._tail_sessions) < len(self.config.names):
            raise InputError(f"this runner forces {self.width}; make one without a width")
        texts = list(checked_texts(texts))
        for start in range(0, len(texts), self.window):
            tokens = self._tokenise(texts[start : start + self.window])
            for rows in self._batches(np.argsort(-tokens.lengths, kind="stable"), tokens):
                inputs = tokens.batch(rows)[0]
                trunk = self._trunk_session is not None
                router_logits, hidden = (
                    self._router(inputs) if trunk else (np.zeros((len(rows), 1), np.float32), None)
                )
                networks = range(len(self.config.names))
                logits = [self._logits(index, inputs, hidden) for index in networks]
                yield AllLogits(start + rows, tokens.lengths[rows], np.stack(logits), router_logits)

    def passes(self, text: Text) -> list[Callable[[], object]]:
        """Prepare to answer one text: at each width, and last at the encoder's narrowest and then at full width."""
        inputs = self._tokenise([text]).batch(np.zeros(1, np.int64))[0]
        last = len(self.config.names) - 1
        front = self.config.front

        def run(*indices: int) -> None:
            hidden = self._trunk(inputs, False)[0] if indices[0] >= front else None
            for index in indices:
                self._logits(index, inputs, hidden)

        return [*(partial(run, index) for index in range(last + 1)), partial(run, front, last)]

    def _router(self, inputs: dict[str, Numbers]) -> tuple[Floats, NDArray[np.float32]]:
        assert self._trunk_session is not None
        router_logits, hidden = self._trunk_session.run(["router_logits", "hidden"], inputs)
        return router_logits, hidden

    def _logits(self, index: int, inputs: dict[str, Numbers], hidden: NDArray[np.float32] | None) -> Floats:
        """Run a sub-network, on the trunk's output if it reads that."""
        if hidden is None or index < self.config.front:
            return self._front(index, inputs)
        return self._tail(index, hidden, inputs["attention_mask"] != 0)

    def _routing(self) -> Routing:
        names = self.config.names
        policy = self.policy if self._index is None else RoutingPolicy(start=names[self._index])
        return Routing(policy, self.config.problem_type, names, self.config.front, self.config.costs)

    @property
    def max_length(self) -> int:
        """The most tokens of a text that are read."""
        return self.config.max_length

    def _tokenise(self, window: list[Text]) -> Tokens:
        limit, pairs = self.config.max_length, any(isinstance(text, tuple) for text in window)
        check_limit(limit, self._tokenizer.num_special_tokens_to_add(pairs), pairs)
        encoded = self._tokenizer.encode_batch_fast([self._cut(text) for text in window])
        values: dict[str, list[list[int]]] = {"input_ids": [row.ids for row in encoded]}
        if "token_type_ids" in self.config.padding:
            values["token_type_ids"] = [row.type_ids for row in encoded]
        return Tokens(values, self.config.padding, [bool(row.overflowing) for row in encoded])

    def _cut(self, text: Text) -> Text:
        if self._tokenizer.truncation is not None and self._tokenizer.truncation["direction"] != "right":
            return text  # the end is kept
        if isinstance(text, tuple):
            return self._shortened(text[0]), self._shortened(text[1])
        return self._shortened(text)

    def _shortened(self, text: str) -> str:
        return shortened(text, self.config.max_length, self._count)

    def _count(self, text: str, _most: int) -> int:
        if self._whole_tokenizer is None:  # the other one truncates
            whole = Tokenizer.from_file(str(self.config.tokenizer))
            whole.no_truncation()
            self._whole_tokenizer = whole  # when it is ready: other threads use it
        return len(self._whole_tokenizer.encode(text, add_special_tokens=False).ids)

    def _front(self, index: int, inputs: dict[str, Numbers]) -> Floats:
        """Run a graph that reads tokens, a dense model's too; not every one reads all that the tokenizer makes."""
        return self._tail_sessions[index].run(["logits"], inputs)[0]

    def _trunk(
        self, inputs: dict[str, Numbers], routes: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        assert self._trunk_session is not None  # a dense model has nothing to pool
        if not routes:
            return self._trunk_session.run(["hidden"], inputs)[0], None
        router_logits, hidden = self._router(inputs)
        return hidden, router_logits

    def _choose(self, policy: RoutingPolicy, router_logits: NDArray[np.float32], lengths: Numbers) -> Numbers:
        relative = None if policy.cost_weight == 0 else relative_cost(self.config.costs.alone, lengths)
        return choose_width(router_logits, relative, policy, self.config.names)  # type: ignore[no-any-return]

    def _tail(self, index: int, hidden: NDArray[np.float32], real: Flags) -> Floats:
        mask = real.astype(np.int64)
        return self._tail_sessions[index].run(["logits"], {"hidden": hidden, "attention_mask": mask})[0]

    def _whole(self, inputs: dict[str, Numbers], rows: Numbers, cascade: Cascade) -> None:
        if self._trunk_session is None:
            cascade.begin(rows, 0)
            cascade.put(0, rows, self._front(0, inputs))
            return
        routing, hidden = self._routing(), None
        if (cascade.next_of(rows) < 0).any():
            hidden, router_logits = self._trunk(inputs, True)
            assert router_logits is not None
            cascade.begin(rows, self._choose(routing.policy, router_logits, inputs["attention_mask"].sum(axis=1)))
        # One input, or several that all run one sub-network.
        while (index := int(cascade.next_of(rows)[0])) >= 0:
            if index >= routing.front and hidden is None:
                hidden = self._trunk(inputs, False)[0]
            cascade.put(index, rows, self._logits(index, inputs, hidden))
