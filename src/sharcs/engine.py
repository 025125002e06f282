"""Many texts through a routed network: tokenised ahead, batched by length, pooled by width across batches."""

from __future__ import annotations

from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from sharcs.background import in_background
from sharcs.data import encode, token_limit
from sharcs.pool import Pool, padded
from sharcs.router import blended, confidence, unsure

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from sharcs.config import SharcsConfig
    from sharcs.modeling import SharcsForSequenceClassification
    from sharcs.pool import Flags, Numbers

    Text = str | tuple[str, str]

__all__ = ["InferenceEngine", "Prediction"]

MODEL_INPUTS = ("input_ids", "token_type_ids")


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


class InferenceEngine:
    """Answers streams of texts of any length, in constant memory.

    A window of inputs at a time is tokenised in the background and ordered by length. Batches are filled by their
    number of tokens and run through the trunk (embeddings, layers 1..k, router). The inputs' outputs of layer k wait
    in a pool for each width until they fill a batch for its sub-network; answers that the policy finds unsure go on
    to the pool of the full width. At most ``batch_tokens`` tokens wait a width, and one batch more.

    Every input is answered as the model would answer it alone, up to rounding: results don't depend on what an
    input is batched with. The number of threads is torch's.

    Args:
        model: The routed network; it is put into evaluation mode, and its sub-networks are copied into plain layers.
        tokenizer: Its tokenizer; texts are cut to its ``model_max_length`` tokens.
        width: Forces one width; by default the configured policy routes.
        batch_tokens: Tokens of a batch, padding included. A longer input is a batch of its own.
        window: Inputs that are ordered together. More pad less, and are kept in memory.
    """

    def __init__(
        self,
        model: SharcsForSequenceClassification,
        tokenizer: PreTrainedTokenizerBase,
        *,
        width: float | None = None,
        batch_tokens: int = 4096,
        window: int = 2048,
    ) -> None:
        """Take over the settings.

        Raises:
            InputError: If the network has no such width.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.width = None if width is None else model.config.widths[model.config.index_of(width)]
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

    def _tokenise(self, window: list[Text]) -> _Tokens:
        texts = [text[0] if isinstance(text, tuple) else text for text in window]
        pairs = [text[1] for text in window if isinstance(text, tuple)] or None
        limit = token_limit(self.tokenizer, self.tokenizer.model_max_length, with_pairs=pairs is not None)
        encoded = encode(self.tokenizer, texts, pairs, limit)
        return _Tokens({name: encoded[name] for name in MODEL_INPUTS if name in encoded}, self.tokenizer)

    def _answer(self, tokens: _Tokens) -> list[Prediction]:
        if self.model.training:
            self.model.train(False)
        self.model.prepare_for_inference()
        answers = _Answers(len(tokens.lengths))
        with torch.inference_mode():
            self._run_window(tokens, answers)
        return answers.as_list()

    def _run_window(self, tokens: _Tokens, answers: _Answers) -> None:
        order = np.argsort(-tokens.lengths, kind="stable")
        pools = [Pool() for _ in self.model.config.widths]
        start = 0
        while start < len(order):
            count = max(1, self.batch_tokens // max(1, int(tokens.lengths[order[start]])))
            rows = order[start : start + count]
            start += count
            inputs, real = tokens.batch(rows, self.model.device)
            if self.width is not None or len(order) == 1:
                # Nothing to pool.
                outputs = self.model(**inputs, width=self.width)
                widths, first = outputs.width_index, outputs.first_width_index
                answers.put_first(rows, widths if first is None else first)
                answers.put(rows, outputs.logits, widths)
                continue
            trunk = self.model(**inputs, trunk_only=True)
            widths = answers.put_first(rows, trunk.width_index)
            for index in np.unique(widths):
                pools[index].add(rows, trunk.hidden, real, widths == index)
                self._run_pool(pools, index, answers)
        for index in range(len(pools)):  # the full width last: others add to it
            self._run_pool(pools, index, answers, to_the_end=True)

    def _run_pool(self, pools: list[Pool], index: int, answers: _Answers, to_the_end: bool = False) -> None:
        """Run a pool's inputs in batches, as long as they fill one."""
        full, config = len(pools) - 1, self.model.config
        while len(pools[index]) and (to_the_end or pools[index].padded_tokens >= self.batch_tokens):
            rows, hidden, real = pools[index].take(self.batch_tokens)
            mask = torch.from_numpy(real).to(hidden.device, torch.int64)
            logits = self.model(hidden=hidden, attention_mask=mask, width=config.widths[index]).logits
            if index == full:
                logits = answers.blended(rows, logits, config)
            widths = torch.full(rows.shape, index, device=logits.device)
            answers.put(rows, logits, widths)
            if index < full and config.routing_policy.escalates:
                sure = confidence(logits, config.problem_type)
                goes_on = unsure(sure, widths, full, config.routing_policy).cpu().numpy()
                if goes_on.any():
                    answers.keep(rows, logits, goes_on, config)
                    pools[full].add(rows, hidden, real, goes_on)
                    self._run_pool(pools, full, answers)


class _Tokens:
    """The tokens of a window, flat: a list of Python numbers for each input would take far more memory."""

    def __init__(self, encoded: dict[str, list[list[int]]], tokenizer: PreTrainedTokenizerBase) -> None:
        rows = encoded["input_ids"]
        self.lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        self._starts = np.cumsum(self.lengths) - self.lengths
        total = int(self.lengths.sum())
        self._flat = {
            name: np.fromiter(chain.from_iterable(values), np.int64, total) for name, values in encoded.items()
        }
        self._padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}

    def batch(self, rows: Numbers, device: torch.device) -> tuple[dict[str, Any], Flags]:
        """Pad some inputs to the longest of them: what the model takes, and which tokens are real."""
        positions, real = padded(self._starts[rows], self.lengths[rows])
        arrays = {name: np.where(real, flat[positions], self._padding[name]) for name, flat in self._flat.items()}
        arrays["attention_mask"] = real.astype(np.int64)
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}, real


class _Answers:
    """The answers to a window, as they come."""

    def __init__(self, count: int) -> None:
        self._classes, self._widths, self._first = (np.zeros(count, np.int64) for _ in range(3))
        self._scores = np.zeros(count, np.float64)
        self._narrow: Tensor | None = None  # logits of the inputs that go on, where they are to be blended

    def put_first(self, rows: Numbers, widths: Tensor) -> Numbers:
        """Note at which width inputs begin, and return it."""
        chosen: Numbers = widths.cpu().numpy()
        self._first[rows] = chosen
        return chosen

    def put(self, rows: Numbers, logits: Tensor, widths: Tensor) -> None:
        """Note answers; later ones replace them."""
        best = logits.float().softmax(dim=-1).max(dim=-1)
        self._classes[rows] = best.indices.cpu().numpy()
        self._scores[rows] = best.values.cpu().numpy()
        self._widths[rows] = widths.cpu().numpy()

    def keep(self, rows: Numbers, logits: Tensor, goes_on: Flags, config: SharcsConfig) -> None:
        """Keep the narrow answers of inputs that go on."""
        if config.routing_policy.blend == 0:
            return
        if self._narrow is None:
            self._narrow = logits.new_zeros(len(self._classes), logits.shape[1])
        self._narrow[torch.from_numpy(rows[goes_on])] = logits[torch.from_numpy(goes_on)]

    def blended(self, rows: Numbers, logits: Tensor, config: SharcsConfig) -> Tensor:
        """Blend full answers with the narrow ones of the inputs that had one."""
        if self._narrow is None:
            return logits
        went_on = torch.from_numpy(self._first[rows] < len(config.widths) - 1).to(logits.device).unsqueeze(1)
        narrow = self._narrow[torch.from_numpy(rows)]
        return torch.where(went_on, blended(logits, narrow, config.routing_policy, config.problem_type), logits)

    def as_list(self) -> list[Prediction]:
        """List them in input order."""
        columns = (self._classes, self._scores, self._widths, self._first)
        return [Prediction(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
