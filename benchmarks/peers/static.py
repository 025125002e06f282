"""Static networks: the first layers alone, and DynaBERT's widths with distillation and reordering."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from peers import cost
from peers.fitting import fit, run_all
from peers.outputs import Outputs, metric_of
from sharcs.data.named import minilm_path

DYNABERT_WIDTHS = (0.25, 0.5, 0.75, 1.0)


class FirstLayers(nn.Module):
    """The first layers of the encoder with its pooler; all of them is plain fine-tuning."""

    def __init__(self, labels: int, layers: int | None = None) -> None:
        super().__init__()
        more = {} if layers is None else {"num_hidden_layers": layers}
        self.model = AutoModelForSequenceClassification.from_pretrained(minilm_path(), num_labels=labels, **more)
        self.config, self.labels = self.model.config, labels

    def forward(self, **inputs: Tensor) -> Any:
        return self.model(**inputs)

    def answer(self, inputs: dict[str, Tensor]) -> tuple[Tensor]:
        return (self.model(**inputs).logits.unsqueeze(0),)

    def outputs(self, rows: Any) -> Outputs:
        self.train(False)
        (logits,), lengths = run_all(self.answer, rows)
        spent = cost.plain(self.config, lengths, self.labels).unsqueeze(0)
        full = cost.plain(self.config, lengths, self.labels, layers=6)
        return Outputs(logits, spent, full, torch.tensor(rows["labels"]))


def train_first_layers(
    layers: int | None,
    name: str,
    train_rows: Any,
    dev_rows: Any,
    labels: int,
    *,
    seed: int,
    epochs: float,
    rate: float,
) -> tuple[FirstLayers, dict[str, Any]]:
    model = FirstLayers(labels, layers)
    metric = metric_of(name)

    def score() -> float:
        outputs = model.outputs(dev_rows)
        return float(metric(outputs.labels.numpy(), outputs.predictions[0].numpy()))

    return model, {"dev_scores": fit(model, train_rows, score, seed=seed, epochs=epochs, learning_rate=rate)}


class DynaBert(nn.Module):
    """DynaBERT (Hou et al., NeurIPS 2020), its width stage: the hidden size stays, heads and neurons are cut.

    Heads and neurons are sorted by importance; then every batch trains all widths to give the fine-tuned network's
    logits and hidden states. Its data augmentation is left out, as for every method here.
    """

    def __init__(self, teacher: FirstLayers, batches: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.teacher = [copy.deepcopy(teacher).train(False)]  # in a list: not a part of this module
        self.model = copy.deepcopy(teacher.model)
        self.config, self.labels = self.model.config, teacher.labels
        self._sort(batches)

    def _sort(self, batches: list[dict[str, Tensor]]) -> None:
        """Most important heads and neurons first: |∂loss/∂mask|, and |Σ w·∂loss/∂w|, as DynaBERT measures them."""
        heads, size = self.config.num_attention_heads, self.config.hidden_size // self.config.num_attention_heads
        layers = list(self.model.bert.encoder.layer)
        device = self.model.device
        head_scores = torch.zeros(len(layers), heads, device=device)
        neuron_scores = torch.zeros(len(layers), self.config.intermediate_size, device=device)
        self.model.train(False)
        for batch in batches:
            self.model.zero_grad()
            self.model(**{key: value.to(device) for key, value in batch.items()}).loss.backward()
            for index, layer in enumerate(layers):
                out, up, down = layer.attention.output.dense, layer.intermediate.dense, layer.output.dense
                # ∂loss/∂mask of a head is Σ w·∂loss/∂w over the columns that read it.
                head_scores[index] += (out.weight * out.weight.grad).sum(0).view(heads, size).sum(1).abs()
                neuron_scores[index] += (up.weight * up.weight.grad).sum(1).abs()
                neuron_scores[index] += (down.weight * down.weight.grad).sum(0).abs()
        self.model.zero_grad()
        with torch.no_grad():
            for layer, of_heads, of_neurons in zip(layers, head_scores, neuron_scores, strict=True):
                order = of_heads.argsort(descending=True)
                rows = (order.unsqueeze(1) * size + torch.arange(size, device=device)).flatten()
                attention = layer.attention.self
                for linear in (attention.query, attention.key, attention.value):
                    linear.weight.copy_(linear.weight[rows])
                    linear.bias.copy_(linear.bias[rows])
                layer.attention.output.dense.weight.copy_(layer.attention.output.dense.weight[:, rows])
                neurons = of_neurons.argsort(descending=True)
                layer.intermediate.dense.weight.copy_(layer.intermediate.dense.weight[neurons])
                layer.intermediate.dense.bias.copy_(layer.intermediate.dense.bias[neurons])
                layer.output.dense.weight.copy_(layer.output.dense.weight[:, neurons])

    def run(self, inputs: dict[str, Tensor], width: float) -> tuple[Tensor, list[Tensor]]:
        """Logits and the hidden states of every layer, at a width."""
        bert, heads = self.model.bert, self.config.num_attention_heads
        size = self.config.hidden_size // heads
        kept, neurons = round(width * heads), round(width * self.config.intermediate_size)
        hidden = bert.embeddings(input_ids=inputs["input_ids"], token_type_ids=inputs.get("token_type_ids"))
        mask = inputs["attention_mask"][:, None, None, :] == 1
        drop = self.config.attention_probs_dropout_prob if self.training else 0.0
        states = []
        for layer in bert.encoder.layer:
            attention, rows = layer.attention.self, kept * size

            def split(linear: nn.Linear, rows: int = rows, hidden: Tensor = hidden) -> Tensor:
                projected = F.linear(hidden, linear.weight[:rows], linear.bias[:rows])
                return projected.view(*hidden.shape[:2], kept, size).transpose(1, 2)

            context = F.scaled_dot_product_attention(
                split(attention.query), split(attention.key), split(attention.value), attn_mask=mask, dropout_p=drop
            )
            context = context.transpose(1, 2).reshape(*hidden.shape[:2], rows)
            out = layer.attention.output
            attended = out.LayerNorm(
                out.dropout(F.linear(context, out.dense.weight[:, :rows], out.dense.bias)) + hidden
            )
            up, down = layer.intermediate.dense, layer.output
            inner = F.gelu(F.linear(attended, up.weight[:neurons], up.bias[:neurons]))
            hidden = down.LayerNorm(
                down.dropout(F.linear(inner, down.dense.weight[:, :neurons], down.dense.bias)) + attended
            )
            states.append(hidden)
        return self.model.classifier(self.model.dropout(bert.pooler(hidden))), states

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_states: list[Tensor] = []
            hooks = [
                layer.register_forward_hook(
                    lambda _m, _i, out: teacher_states.append(out[0] if isinstance(out, tuple) else out)
                )
                for layer in self.teacher[0].model.bert.encoder.layer
            ]
            target = self.teacher[0].model(**inputs).logits.float().softmax(-1)
            for hook in hooks:
                hook.remove()
        mask = inputs["attention_mask"].unsqueeze(-1)
        total: Tensor | float = 0.0
        for width in DYNABERT_WIDTHS:
            logits, states = self.run(inputs, width)
            total = total - (target * logits.float().log_softmax(-1)).sum(-1).mean()
            for mine, theirs in zip(states, teacher_states, strict=True):
                total = total + 0.1 * (((mine.float() - theirs.float()) ** 2) * mask).sum() / (
                    mask.sum() * mine.shape[-1]
                )
        return {"loss": total}  # type: ignore[dict-item]

    def outputs(self, rows: Any) -> Outputs:
        """One stage a width; a static policy takes one of them for every input."""
        self.train(False)

        def answer(inputs: dict[str, Tensor]) -> tuple[Tensor]:
            return (torch.stack([self.run(inputs, width)[0] for width in DYNABERT_WIDTHS]),)

        (logits,), lengths = run_all(answer, rows)
        layers = self.config.num_hidden_layers
        head = cost.classifier(self.config, self.labels)
        spent = torch.stack([layers * cost.layer(self.config, lengths, width) + head for width in DYNABERT_WIDTHS])
        return Outputs(logits, spent, cost.plain(self.config, lengths, self.labels), torch.tensor(rows["labels"]))


def ordering_batches(train_rows: Any, collate: Any, seed: int) -> list[dict[str, Tensor]]:
    """Batches of 1,024 training rows, to measure importance on."""
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(train_rows), generator=generator)[:1024].tolist()
    return [
        collate(
            [{key: train_rows[i][key] for key in names if key in train_rows[i]} for i in sample[start : start + 32]]
        )
        for start in range(0, len(sample), 32)
    ]


def train_dynabert(
    teacher: FirstLayers,
    name: str,
    train_rows: Any,
    dev_rows: Any,
    collate: Any,
    *,
    seed: int,
    epochs: float,
    rate: float,
) -> tuple[DynaBert, dict[str, Any]]:
    model = DynaBert(teacher, ordering_batches(train_rows, collate, seed))
    metric = metric_of(name)

    def score() -> float:
        outputs = model.outputs(dev_rows)
        each = [metric(outputs.labels.numpy(), of_width.numpy()) for of_width in outputs.predictions]
        return float(sum(each) / len(each))

    return model, {"dev_scores": fit(model, train_rows, score, seed=seed, epochs=epochs, learning_rate=rate)}
