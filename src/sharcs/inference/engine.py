"""Many texts through a routed network in PyTorch; when what runs is :mod:`sharcs_runtime.scheduler`'s affair."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sharcs.data.tokens import encode, most_tokens, token_limit
from sharcs.inference.pool import Pool
from sharcs.tasks.base import require_one_answer
from sharcs_runtime.cascade import Routing
from sharcs_runtime.policy import choose_width, relative_cost
from sharcs_runtime.scheduler import BATCH_TOKENS, PooledEngine
from sharcs_runtime.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

    from sharcs.config import SharcsConfig
    from sharcs.model.text import SharcsForSequenceClassification
    from sharcs_runtime.cascade import Cascade
    from sharcs_runtime.policy import Floats, RoutingPolicy
    from sharcs_runtime.pool import Flags, Numbers
    from sharcs_runtime.scheduler import Wanted
    from sharcs_runtime.tokens import Text
    from sharcs_runtime.ways import Costs

MODEL_INPUTS = ("input_ids", "token_type_ids")


def batch_tokens_on(device: torch.device) -> int:
    """Say how many tokens a batch has by default."""
    return BATCH_TOKENS if device.type == "cpu" else 2 * BATCH_TOKENS


def tokens_of(window: list[Text], tokenizer: PreTrainedTokenizerBase, most: int) -> Tokens:
    """Tokenise texts, or pairs of them, truncated to ``most`` tokens."""
    texts = [text[0] if isinstance(text, tuple) else text for text in window]
    pairs = [text[1] for text in window if isinstance(text, tuple)] or None
    limit = token_limit(tokenizer, most, with_pairs=pairs is not None)
    encoded, cut = encode(tokenizer, texts, pairs, limit)
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    return Tokens({name: encoded[name] for name in MODEL_INPUTS if name in encoded}, padding, cut)


class InferenceEngine(PooledEngine[Tensor]):
    """Answers streams of texts of any length, in constant memory.

    How texts are batched and pooled says :class:`sharcs_runtime.scheduler.PooledEngine`. Every input is answered as
    the model would answer it alone, up to rounding: results don't depend on what an input is batched with. The number
    of threads is torch's.

    Args:
        model: The routed network; it is put into evaluation mode and prepared for inference.
        tokenizer: Its tokenizer; texts are cut to its ``model_max_length`` tokens, or to the encoder's positions
            where these are fewer.
        width: Forces one sub-network, by its width or its name; by default the configured policy routes.
        batch_tokens: Tokens of a batch, padding included. A longer input is a batch of its own. By default 2,048 on a
            CPU and 4,096 elsewhere.
        window: Inputs that are ordered together. More pad less, and are kept in memory.
    """

    def __init__(
        self,
        model: SharcsForSequenceClassification,
        tokenizer: PreTrainedTokenizerBase,
        *,
        width: float | str | None = None,
        batch_tokens: int | None = None,
        window: int = 2048,
    ) -> None:
        """Take over the settings.

        Raises:
            InputError: If the network has no such width, or has not one answer for each input.
        """
        require_one_answer(model.problem_type, "InferenceEngine")
        batch_tokens = batch_tokens_on(model.device) if batch_tokens is None else batch_tokens
        super().__init__(forced=width is not None, batch_tokens=batch_tokens, window=window)
        self.model = model
        self.tokenizer = tokenizer
        self.width = None if width is None else model.config.keys[model.config.index_of(width)]

    @property
    def config(self) -> SharcsConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def max_length(self) -> int:
        """The most tokens of a text that are read."""
        return most_tokens(self.tokenizer, self.model.config.encoder)

    def _tokenise(self, window: list[Text]) -> Tokens:
        return tokens_of(window, self.tokenizer, self.max_length)

    @torch.inference_mode()
    def _steps(
        self, tokens: Tokens, cascade: Cascade, wanted: Wanted | None = None, own_policy: bool = True
    ) -> Iterator[Numbers]:
        if self.model.training:
            self.model.train(False)
        self.model.prepare_for_inference()
        yield from super()._steps(tokens, cascade, wanted, own_policy)

    def _routing(self) -> Routing:
        config = self.model.config
        policy, front = config.routing_policy, len(self.model.tail.front)
        return Routing(policy, config.problem_type, self.model.tail.names, front, self._costs)

    @cached_property
    def _costs(self) -> Costs:
        return self.model.costs()

    def _pool(self) -> Pool:
        return Pool()

    def _whole(self, inputs: dict[str, Numbers], rows: Numbers, cascade: Cascade) -> None:
        # Without what may be around the model's own pass, which trunk and tail don't have either: training in mixed
        # precision leaves autocast there.
        run: Any = type(self.model).forward
        outputs = run(self.model, **self._on_device(inputs), width=self.width)
        last = outputs.width_index.cpu().numpy()
        first = last if outputs.first_width_index is None else outputs.first_width_index.cpu().numpy()
        cascade.settle(rows, _array(outputs.logits), last, first)

    def _front(self, index: int, inputs: dict[str, Numbers]) -> Floats:
        return _array(self.model.run_front(index, **self._on_device(inputs)))

    def _trunk(self, inputs: dict[str, Numbers], routes: bool) -> tuple[Tensor, Tensor | None]:
        full = len(self.model.tail.names) - 1
        trunk = self.model.run_trunk(None if routes else full, **self._on_device(inputs))
        return trunk.hidden, trunk.router_logits

    def _choose(self, policy: RoutingPolicy, router_logits: Tensor, lengths: Numbers) -> Numbers:
        relative = None
        if policy.cost_weight != 0:
            alone = torch.from_numpy(self._costs.alone).to(router_logits.device)
            relative = relative_cost(alone, torch.from_numpy(lengths).to(router_logits.device))
        chosen: Tensor = choose_width(router_logits, relative, policy, self.model.tail.names)
        return chosen.cpu().numpy()

    def _tail(self, index: int, hidden: Tensor, real: Flags) -> Floats:
        mask = torch.from_numpy(real).to(hidden.device, torch.int64)
        return _array(self.model.run_tail(hidden, mask, self.model.tail.names[index]))

    def _on_device(self, inputs: dict[str, Numbers]) -> dict[str, Tensor]:
        device = self.model.device
        return {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}


def _array(logits: Tensor) -> Floats:
    return logits.float().cpu().numpy()
