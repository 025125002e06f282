"""Early exit: a classifier behind every layer, and seven ways to train them.

Each regime follows its paper's training; all share the exits' form (a BERT pooler and a linear layer), the encoder,
the batches and the counter. Their policies read the outputs in outputs.py.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from peers import cost
from peers.fitting import fit, run_all
from peers.outputs import Outputs, budget_score
from sharcs.data.named import minilm_path

# name: the signal by which inputs leave
SIGNALS = {
    "branchynet": "entropy",  # Teerapittayanon et al., ICPR 2016
    "shallow-deep": "confidence",  # Kaya et al., ICML 2019
    "deebert": "entropy",  # Xin et al., ACL 2020
    "fastbert": "entropy",  # Liu et al., ACL 2020; its uncertainty is the normalised entropy
    "pabee": "patience",  # Zhou et al., NeurIPS 2020
    "berxit": "certainty",  # Xin et al., EACL 2021
    "sweet": "confidence",  # Rotem et al., ACL Findings 2023
}
TWO_STAGES = ("deebert", "fastbert")
EXITS_LEARNING_RATE = 1e-3  # of the second stage, where only the exits, which start at random, are trained


class MultiExit(nn.Module):
    """An encoder with an exit behind every layer; the last one is the pretrained network's own head."""

    def __init__(self, labels: int, regime: str) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(minilm_path(), num_labels=labels)
        self.config, self.regime, self.labels = self.model.config, regime, labels
        bert = self.model.bert
        count = len(bert.encoder.layer) - 1
        # Every exit starts from the pretrained pooler, the only one there is.
        self.poolers = nn.ModuleList(copy.deepcopy(bert.pooler) for _ in range(count))
        self.classifiers = nn.ModuleList(nn.Linear(self.config.hidden_size, labels) for _ in range(count))
        self.certainty = nn.Linear(self.config.hidden_size, 1)  # BERxiT's learned exit, shared by all layers
        self.stage, self.step = 1, 0

    def answers(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``[layers, batch, labels]`` and certainties ``[layers, batch, 1]`` of every exit."""
        bert = self.model.bert
        hidden = bert.embeddings(input_ids=inputs["input_ids"], token_type_ids=inputs.get("token_type_ids"))
        mask = (inputs["attention_mask"][:, None, None, :] == 1).expand(-1, 1, hidden.shape[1], -1)
        logits, certainties = [], []
        for index, layer in enumerate(bert.encoder.layer):
            output = layer(hidden, mask)
            hidden = output[0] if isinstance(output, tuple) else output
            last = index == len(self.poolers)
            pooler = bert.pooler if last else self.poolers[index]
            head = self.model.classifier if last else self.classifiers[index]
            pooled = pooler(hidden)
            logits.append(head(self.model.dropout(pooled)))
            certainties.append(torch.sigmoid(self.certainty(hidden[:, 0].detach())))
            if self.regime == "sweet" and self.training:
                hidden = hidden.detach()  # an exit's loss stops at the layers between it and the exit before
        return torch.stack(logits).float(), torch.stack(certainties).float()

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        logits, certainties = self.answers(inputs)
        return {"loss": self.loss(logits, certainties, labels)}

    def loss(self, logits: Tensor, certainties: Tensor, labels: Tensor) -> Tensor:
        each = torch.stack([F.cross_entropy(of_exit, labels) for of_exit in logits])
        count = len(each)
        rising = torch.arange(1, count + 1, dtype=each.dtype, device=each.device)
        self.step += 1
        if self.regime in TWO_STAGES:
            if self.stage == 1:
                return each[-1]
            if self.regime == "deebert":
                return each[:-1].sum()
            teacher = logits[-1].detach().log_softmax(-1)
            pupils = logits[:-1].log_softmax(-1)
            return sum(F.kl_div(teacher, p, reduction="batchmean", log_target=True) for p in pupils)  # type: ignore[return-value]
        if self.regime == "shallow-deep":
            # Weights rise with an exit's share of the cost, the last exit's is 1.
            return (each * rising / count).sum()
        if self.regime == "pabee":
            return (each * rising).sum() / rising.sum()
        if self.regime == "berxit":
            right = (logits.argmax(-1) == labels).to(certainties.dtype)
            learned = F.mse_loss(certainties[:-1].squeeze(-1), right[:-1])
            # Alternating: the last exit alone in odd steps, all of them in even ones.
            return (each[-1] if self.step % 2 else each.sum()) + learned
        return each.sum()  # branchynet, sweet

    def second_stage(self) -> None:
        """Freeze the encoder and its own head; the exits are trained alone."""
        self.stage = 2
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)


def outputs_of(model: MultiExit, rows: Any) -> Outputs:
    model.train(False)
    (logits, certainties), lengths = run_all(model.answers, rows)
    config, count = model.config, len(logits)
    layers = torch.arange(1, count + 1).unsqueeze(1) * cost.layer(config, lengths)
    # The learned exit is 2·d FLOPs a layer, counted with the exit.
    exits = cost.classifier(config, model.labels) + (2.0 * config.hidden_size if model.regime == "berxit" else 0)
    spent = layers + exits * torch.arange(1, count + 1).unsqueeze(1)
    signals = {"certainty": certainties.squeeze(-1).double()}
    full = cost.plain(config, lengths, model.labels)
    return Outputs(logits, spent, full, torch.tensor(rows["labels"]), signals)


def train(
    regime: str, name: str, train_rows: Any, dev_rows: Any, labels: int, *, seed: int, epochs: float, rate: float
) -> tuple[MultiExit, dict[str, Any]]:
    """Train one regime; epochs are chosen on held-out rows."""
    model = MultiExit(labels, regime)
    signal = SIGNALS[regime]

    def at_the_end() -> float:
        outputs = outputs_of(model, dev_rows)
        return float((outputs.predictions[-1] == outputs.labels).double().mean())

    def over_budgets() -> float:
        return budget_score(outputs_of(model, dev_rows), signal, name)

    common = {"seed": seed, "epochs": epochs}
    if regime not in TWO_STAGES:
        return model, {"dev_scores": fit(model, train_rows, over_budgets, learning_rate=rate, **common)}
    first = fit(model, train_rows, at_the_end, learning_rate=rate, **common)
    model.second_stage()
    second = fit(model, train_rows, over_budgets, learning_rate=EXITS_LEARNING_RATE, **common)
    return model, {"dev_scores": first, "dev_scores_second_stage": second}
