"""DynaBERT (Hou et al., NeurIPS 2020), width alone: heads and neurons by importance, distilled, then on labels."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from judge import cost
from judge.answers import Answers
from judge.networks import Network, accuracy, attention_mask, over
from judge.training import Fit, Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from judge.data import Parts, Rows

WIDTHS = (0.25, 0.5, 1.0)
REPORTED = (0, 1)  # of these, alone
IMPORTANCE_ROWS = 1024
HIDDEN_WEIGHT = 0.1  # of the hidden states' loss beside the logits'


class DynaBert(nn.Module):
    """The reference with its most important heads and neurons first, run at several widths; the hidden size stays."""

    def __init__(self, network: Network, parts: Parts, seed: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.config = network.config
        self._sort(parts.train, seed)

    def _sort(self, rows: Rows, seed: int) -> None:
        """Measure importance, |∂loss/∂mask| of heads and |Σ w·∂loss/∂w| of neurons, and put the first ones first."""
        heads = self.config.num_attention_heads
        size = self.config.hidden_size // heads
        layers = self.network.layers
        head_scores = torch.zeros(len(layers), heads)
        neuron_scores = torch.zeros(len(layers), self.config.intermediate_size)
        sample = np.random.default_rng(seed).permutation(len(rows))[:IMPORTANCE_ROWS]
        labels = torch.from_numpy(rows.labels)
        self.network.train(False)
        for start in range(0, len(sample), 32):
            indices = sample[start : start + 32].tolist()
            self.network.zero_grad()
            F.cross_entropy(self.network(rows.batch(indices)), labels[indices]).backward()
            for index, layer in enumerate(layers):
                out, up, down = layer.attention.output.dense, layer.intermediate.dense, layer.output.dense
                # ∂loss/∂mask of a head is Σ w·∂loss/∂w over the columns that read it.
                head_scores[index] += (out.weight * out.weight.grad).sum(0).view(heads, size).sum(1).abs()
                neuron_scores[index] += (up.weight * up.weight.grad).sum(1).abs()
                neuron_scores[index] += (down.weight * down.weight.grad).sum(0).abs()
        self.network.zero_grad(set_to_none=True)
        for layer, of_heads, of_neurons in zip(layers, head_scores, neuron_scores, strict=True):
            order = of_heads.argsort(descending=True)
            rows_of_heads = (order.unsqueeze(1) * size + torch.arange(size)).flatten()
            reorder(layer, rows_of_heads, of_neurons.argsort(descending=True))

    def run(self, inputs: dict[str, Tensor], width: float) -> tuple[Tensor, list[Tensor]]:
        """Answer at a width: logits ``[batch, labels]``, and the output of the embeddings and of every layer."""
        heads = self.config.num_attention_heads
        size = self.config.hidden_size // heads
        kept = round(width * heads)
        neurons = round(width * self.config.intermediate_size)
        bert = self.network.model.bert
        hidden = bert.embeddings(input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"])
        mask = attention_mask(inputs)
        drop = self.config.attention_probs_dropout_prob if self.training else 0.0
        states = [hidden]
        for layer in self.network.layers:
            attention = layer.attention.self
            query, key, value = (
                F.linear(hidden, linear.weight[: kept * size], linear.bias[: kept * size])
                .view(*hidden.shape[:2], kept, size)
                .transpose(1, 2)
                for linear in (attention.query, attention.key, attention.value)
            )
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=drop)
            context = context.transpose(1, 2).reshape(*hidden.shape[:2], kept * size)
            out, up, down = layer.attention.output, layer.intermediate.dense, layer.output
            attended = F.linear(context, out.dense.weight[:, : kept * size], out.dense.bias)
            attended = out.LayerNorm(out.dropout(attended) + hidden)
            inner = F.gelu(F.linear(attended, up.weight[:neurons], up.bias[:neurons]))
            inner = F.linear(inner, down.dense.weight[:, :neurons], down.dense.bias)
            hidden = down.LayerNorm(down.dropout(inner) + attended)
            states.append(hidden)
        return self.network.read(hidden, inputs["attention_mask"]), states


def reorder(layer: nn.Module, heads: Tensor, neurons: Tensor) -> None:
    """Bring a layer's rows of heads and its neurons into an order; what it computes stays the same."""
    attention: Any = layer.attention
    with torch.no_grad():
        for linear in (attention.self.query, attention.self.key, attention.self.value):
            linear.weight.copy_(linear.weight[heads])
            linear.bias.copy_(linear.bias[heads])
        attention.output.dense.weight.copy_(attention.output.dense.weight[:, heads])
        up: Any = layer.intermediate
        down: Any = layer.output
        up.dense.weight.copy_(up.dense.weight[neurons])
        up.dense.bias.copy_(up.dense.bias[neurons])
        down.dense.weight.copy_(down.dense.weight[:, neurons])


def distillation_loss(
    logits: Tensor, states: list[Tensor], teacher: Tensor, theirs: list[Tensor], mask: Tensor
) -> Tensor:
    """Cross-entropy to the teacher's answers, and the squared distance of the hidden states of real tokens."""
    total = -(teacher.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    real = mask.unsqueeze(-1).to(logits.dtype)
    for mine, other in zip(states, theirs, strict=True):
        squares = ((mine - other) ** 2 * real).sum() / (real.sum() * mine.shape[-1])
        total = total + HIDDEN_WEIGHT * squares
    return total


def dynabert(
    network: Network,
    parts: Parts,
    *,
    seed: int,
    schedules: tuple[Schedule, Schedule],
    state: Path | None = None,
) -> tuple[dict[str, Answers], dict[str, Any]]:
    """Train in both stages: all widths towards the reference, then on labels."""
    torch.manual_seed(seed)
    model = DynaBert(network, parts, seed)
    network.train(False)
    labels = torch.from_numpy(parts.train.labels)

    def towards_reference(indices: list[int], _epochs: float) -> Tensor:
        inputs = parts.train.batch(indices)
        mask = inputs["attention_mask"]
        with torch.no_grad():
            theirs = network.states(inputs)
            teacher = network.read(theirs[-1], mask)
        return torch.stack([distillation_loss(*model.run(inputs, w), teacher, theirs, mask) for w in WIDTHS]).sum()

    def on_labels(indices: list[int], _epochs: float) -> Tensor:
        inputs = parts.train.batch(indices)
        return torch.stack([F.cross_entropy(model.run(inputs, w)[0], labels[indices]) for w in WIDTHS]).sum()

    def logits(rows: Rows) -> Any:
        model.train(False)
        return over(rows, lambda inputs: torch.stack([model.run(inputs, WIDTHS[i])[0] for i in REPORTED]))

    def score() -> float:
        values = logits(parts.held_out)
        return float(np.mean([accuracy(of_width, parts.held_out.labels) for of_width in values]))

    record: dict[str, Any] = {"train_seconds": 0.0}
    for stage, (loss, schedule) in enumerate(zip((towards_reference, on_labels), schedules, strict=True), start=1):
        file = None if state is None else state.with_suffix(f".{stage}")
        finished = None if state is None else state.with_suffix(f".{stage}.done")
        if finished is not None and finished.exists():
            content = torch.load(finished, weights_only=True)
            model.load_state_dict(content["model"])
            record |= content["record"]
            continue
        trained = Fit(model, parts.train, loss, score, seed=seed, schedule=schedule, state=file).run()
        record["train_seconds"] += trained.pop("train_seconds")
        record[f"stage_{stage}"] = trained
        if finished is not None:
            finished.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"model": model.state_dict(), "record": record}, finished)
    head = cost.head(network.config, network.labels)

    def answer(rows: Rows) -> Answers:
        widths = [len(network.layers) * cost.layer(network.config, rows.lengths, WIDTHS[i]) + head for i in REPORTED]
        return Answers(logits(rows), np.stack(widths))

    return parts.measured(answer), record
