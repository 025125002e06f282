"""Exported networks on ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sharcs_runtime.bundle import Bundle
from sharcs_runtime.cascade import Routing
from sharcs_runtime.errors import InputError, MissingPackageError, first_line
from sharcs_runtime.policy import RoutingPolicy, choose_width, relative_cost
from sharcs_runtime.scheduler import BATCH_TOKENS, PooledEngine
from sharcs_runtime.tokens import Tokens
from sharcs_runtime.truncation import check_limit, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sharcs_runtime.cascade import Cascade
    from sharcs_runtime.policy import Floats
    from sharcs_runtime.pool import Flags, Numbers
    from sharcs_runtime.tokens import Text


class OnnxRunner(PooledEngine[NDArray[np.float32]]):
    """Answers streams of texts by a network that ``sharcs export`` wrote, in constant memory.

    How texts are batched and pooled says :class:`~sharcs_runtime.scheduler.PooledEngine`. Answers don't depend on
    what an input is batched with, up to rounding; where the graphs are in int8 they do a little, because ONNX Runtime
    scales a whole batch at once.

    Args:
        folder: The directory; routed, or one sub-network as a dense model.
        width: Forces one sub-network, by its width or its name; by default the policy routes.
        threads: Of a matrix product; by default ONNX Runtime's choice.
        batch_tokens: Tokens of a batch, padding included. A longer input is a batch of its own.
        window: Inputs that are ordered together. More pad less, and are kept in memory.
        providers: ONNX Runtime's execution providers, the preferred first.

    Attributes:
        labels: Class names by index.
        widths: The widths by index.
        policy: The routing policy; another one may be put here.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        width: float | str | None = None,
        threads: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        window: int = 2048,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """Load the graphs.

        Raises:
            InputError: If the directory holds no exported network, a broken one, or none of that width, or ONNX
                Runtime is not installed.
        """
        self._bundle = bundle = Bundle.read(folder)
        self.labels, self.widths, self.policy = bundle.labels, bundle.widths, bundle.policy
        self._index = None if width is None else _index_of(width, bundle)
        super().__init__(forced=width is not None or bundle.trunk is None, batch_tokens=batch_tokens, window=window)
        needed = range(len(bundle.tails)) if self._index is None else [self._index]
        try:
            self._tokenizer = Tokenizer.from_file(str(bundle.tokenizer))
            self._trunk_session = None if bundle.trunk is None else _session(bundle.trunk, threads, providers)
            self._tail_sessions = {index: _session(bundle.tails[index], threads, providers) for index in needed}
        except ImportError as error:
            raise MissingPackageError(error, "onnx") from error
        except Exception as error:  # both libraries raise whatever their Rust or C++ side makes of it
            raise InputError(f"{folder}: can't be loaded ({first_line(error)}); export again") from error
        self._whole_tokenizer: Tokenizer | None = None

    def _routing(self) -> Routing:
        names = self._bundle.names
        policy = self.policy if self._index is None else RoutingPolicy(start=names[self._index])
        return Routing(policy, self._bundle.problem_type, names, self._bundle.front, self._bundle.costs)

    def _tokenise(self, window: list[Text]) -> Tokens:
        limit, pairs = self._bundle.max_length, any(isinstance(text, tuple) for text in window)
        check_limit(limit, self._tokenizer.num_special_tokens_to_add(pairs), pairs)
        encoded = self._tokenizer.encode_batch_fast([self._cut(text) for text in window])
        values: dict[str, list[list[int]]] = {"input_ids": [row.ids for row in encoded]}
        if "token_type_ids" in self._bundle.padding:
            values["token_type_ids"] = [row.type_ids for row in encoded]
        return Tokens(values, self._bundle.padding)

    def _cut(self, text: Text) -> Text:
        if self._tokenizer.truncation is not None and self._tokenizer.truncation["direction"] != "right":
            return text  # the end is kept
        if isinstance(text, tuple):
            return self._shortened(text[0]), self._shortened(text[1])
        return self._shortened(text)

    def _shortened(self, text: str) -> str:
        return shortened(text, self._bundle.max_length, self._count)

    def _count(self, text: str, _most: int) -> int:
        if self._whole_tokenizer is None:  # the other one truncates
            self._whole_tokenizer = Tokenizer.from_file(str(self._bundle.tokenizer))
            self._whole_tokenizer.no_truncation()
        return len(self._whole_tokenizer.encode(text, add_special_tokens=False).ids)

    def _front(self, index: int, inputs: dict[str, Numbers]) -> Floats:
        """Run a graph that reads tokens, a dense model's too; not every one reads all that the tokenizer makes."""
        session = self._tail_sessions[index]
        feed = {given.name: inputs[given.name] for given in session.get_inputs()}
        return session.run(["logits"], feed)[0]  # type: ignore[no-any-return]

    def _trunk(
        self, inputs: dict[str, Numbers], routes: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        assert self._trunk_session is not None  # a dense model has nothing to pool
        if not routes:
            return self._trunk_session.run(["hidden"], inputs)[0], None
        router_logits, hidden = self._trunk_session.run(["router_logits", "hidden"], inputs)
        return hidden, router_logits

    def _choose(self, policy: RoutingPolicy, router_logits: NDArray[np.float32], lengths: Numbers) -> Numbers:
        relative = None if policy.cost_weight == 0 else relative_cost(self._bundle.costs.alone, lengths)
        return choose_width(router_logits, relative, policy, self._bundle.names)  # type: ignore[no-any-return]

    def _tail(self, index: int, hidden: NDArray[np.float32], real: Flags) -> Floats:
        feed = {"hidden": hidden, "attention_mask": real.astype(np.int64)}
        return self._tail_sessions[index].run(["logits"], feed)[0]  # type: ignore[no-any-return]

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
            if index < routing.front:
                logits = self._front(index, inputs)
            else:
                hidden = self._trunk(inputs, False)[0] if hidden is None else hidden
                logits = self._tail(index, hidden, inputs["attention_mask"] != 0)
            cascade.put(index, rows, logits)


def _session(file: Path, threads: int | None, providers: Sequence[str]) -> Any:
    # Here, so that the policy and the scheduling can be used without ONNX Runtime.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    # The threads of one graph would go on spinning for a while, and take the processors from the next graph.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # On a CPU an addition and a norm are faster apart than in the one operator that they would be fused to.
    disabled = ["SkipLayerNormFusion"] if list(providers) == ["CPUExecutionProvider"] else []
    return onnxruntime.InferenceSession(str(file), options, providers=list(providers), disabled_optimizers=disabled)


def _index_of(width: float | str, bundle: Bundle) -> int:
    keys = [*bundle.names[: bundle.front], *bundle.widths[bundle.front :]]
    for known in (keys, bundle.names):
        if width in known:
            return known.index(width)  # type: ignore[arg-type]
    raise InputError(f"width {width}: the exported network has {', '.join(map(str, keys))}; name one of them")
