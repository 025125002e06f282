"""The encoder, layer by layer, with either read-out; and passes over many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from judge import cost
from judge.answers import Answers
from sharcs.data.named import minilm_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from judge.data import Rows

READOUTS = ("cls", "mean")


def mean_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the real tokens: ``[batch, tokens, hidden]`` to ``[batch, hidden]``."""
    real = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * real).sum(1) / real.sum(1)


class Network(nn.Module):
    """MiniLM's embeddings, its first layers, and a classifier.

    Args:
        labels: How many classes there are.
        readout: What goes through BERT's pooler: ``cls``, the first token as transformers has it, or in its place the
            ``mean`` of the tokens, as the package's read-out of that name has it.
        layers: How many layers; all by default.
    """

    def __init__(self, labels: int, readout: str, layers: int | None = None) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise ValueError(readout)
        more = {} if layers is None else {"num_hidden_layers": layers}
        self.model = AutoModelForSequenceClassification.from_pretrained(minilm_path(), num_labels=labels, **more)
        self.config = self.model.config
        self.labels = labels
        self.readout = readout

    @property
    def layers(self) -> list[nn.Module]:
        """The encoder's layers."""
        return list(self.model.bert.encoder.layer)

    def states(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Run embeddings and layers: the output of each, ``[batch, tokens, hidden]``, the embeddings' first."""
        hidden = self.model.bert.embeddings(input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"])
        mask = attention_mask(inputs)
        every = [hidden]
        for layer in self.layers:
            output = layer(hidden, mask)
            hidden = output[0] if isinstance(output, tuple) else output
            every.append(hidden)
        return every

    def read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Turn the last layer's output into logits ``[batch, labels]``."""
        first = hidden if self.readout == "cls" else mean_of_tokens(hidden, mask).unsqueeze(1)
        logits: Tensor = self.model.classifier(self.model.dropout(self.model.bert.pooler(first)))
        return logits

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Classify a batch: ``[batch, labels]``."""
        return self.read(self.states(inputs)[-1], inputs["attention_mask"])

    def flops(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """What it costs on inputs of these lengths."""
        per_layer = cost.layer(self.config, lengths)
        return len(self.layers) * per_layer + cost.head(self.config, self.labels)


def attention_mask(inputs: dict[str, Tensor]) -> Tensor:
    """Tell real tokens to a layer, as what is added to its scores: float ``[batch, 1, tokens, tokens]``."""
    mask = inputs["attention_mask"]
    tokens = mask.shape[1]
    added = (1.0 - mask.to(torch.get_default_dtype())) * torch.finfo(torch.get_default_dtype()).min
    return added[:, None, None, :].expand(-1, 1, tokens, -1)


@torch.inference_mode()
def over(rows: Rows, run: Callable[[dict[str, Tensor]], Tensor], batch: int = 64) -> NDArray[np.float32]:
    """Apply a network to every row, by length.

    Args:
        rows: The rows.
        run: From a batch's inputs to ``[..., batch, values]``, the batch last but one.
        batch: Rows of a batch.

    Returns:
        ``[..., rows, values]`` in the rows' order.
    """
    order = np.argsort(-rows.lengths, kind="stable")
    parts = [run(rows.batch(order[i : i + batch].tolist())).float().numpy() for i in range(0, len(order), batch)]
    merged = np.concatenate(parts, axis=-2)
    result = np.empty_like(merged)
    result[..., order, :] = merged
    return result


def answers_of(network: Any, rows: Rows) -> Answers:
    """Answer rows by a network that always runs whole, and says by ``flops(lengths)`` what it costs."""
    network.train(False)
    logits = over(rows, network)
    return Answers(logits[None], network.flops(rows.lengths)[None])


def accuracy(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Count right answers: logits ``[rows, classes]``."""
    return float((logits.argmax(-1) == labels).mean())
