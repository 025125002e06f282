"""Early exit: linear heads, exits on the frozen reference (DeeBERT, FastBERT), exits trained with the network."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from judge import cost, linear
from judge.answers import Answers
from judge.networks import Network, accuracy, attention_mask, mean_of_tokens, over
from judge.training import Fit, Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from judge.data import Parts, Rows

STRENGTHS = (0.01, 0.1, 1.0)  # 1 / regularisation of a linear head; held-out rows choose
BRANCH = 128  # hidden size of FastBERT's branches
RISING_EPOCHS = 4.0  # in which the weights of Shallow-Deep's exits rise
FIRST_WEIGHT = 0.01

Floats = NDArray[np.float32] if TYPE_CHECKING else Any


def vectors(network: Network, rows: Rows, readout: str) -> Floats:
    """What exits read of a frozen network: ``[layers + 1, rows, hidden]``, the embeddings' first."""
    network.train(False)

    def run(inputs: dict[str, Tensor]) -> Tensor:
        states = network.states(inputs)
        if readout == "cls":
            return torch.stack([hidden[:, 0] for hidden in states])
        return torch.stack([mean_of_tokens(hidden, inputs["attention_mask"]) for hidden in states])

    return over(rows, run)


def exit_costs(network: Network, lengths: NDArray[np.int64], per_exit: Any, first: int = 1) -> NDArray[np.float64]:
    """Cost of leaving at exits behind layers ``first`` to the last but one, or at the end: ``[exits + 1, rows]``."""
    layer = cost.layer(network.config, lengths)
    last = len(network.layers)
    exits = np.arange(first, last)
    leaving = exits[:, None] * layer + np.arange(1, len(exits) + 1)[:, None] * per_exit
    whole = network.flops(lengths) + len(exits) * per_exit
    return np.concatenate([leaving, whole[None]])


def with_reference(logits: Floats, network: Network, rows: Rows) -> Floats:
    """Put the frozen network's own answers behind those of its exits."""
    network.train(False)
    return np.concatenate([logits, over(rows, network)[None]])


# Linear heads on the mean of every layer, the embeddings' too


def linear_heads(network: Network, parts: Parts) -> tuple[dict[str, Answers], dict[str, Any]]:
    """Fit logistic regressions on frozen means; each one's strength is chosen on held-out rows."""
    train = vectors(network, parts.train, "mean")[:-1]
    others = parts.measured(lambda rows: vectors(network, rows, "mean")[:-1])
    chosen: list[float] = []
    outputs: dict[str, list[Floats]] = {part: [] for part in others}
    for index in range(len(train)):
        scaler = StandardScaler().fit(train[index])
        held_out = scaler.transform(others["held_out"][index])
        model, _ = linear.fitted(scaler.transform(train[index]), held_out, parts, STRENGTHS, max_iter=1000)
        chosen.append(model.C)
        for part, values in outputs.items():
            features = scaler.transform(others[part][index])
            values.append(linear.class_logits(model, features, len(parts.classes)))
    per_exit = 2.0 * network.config.hidden_size * len(parts.classes)
    answers = {
        part: Answers(
            with_reference(np.stack(values), network, getattr(parts, part)),
            exit_costs(network, getattr(parts, part).lengths, per_exit, first=0),
        )
        for part, values in outputs.items()
    }
    return answers, {"strengths": chosen}


# DeeBERT: exits of BERT's form on the frozen reference, by labels


class Exit(nn.Module):
    """BERT's pooler and a linear layer on a vector."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        hidden = network.config.hidden_size
        self.dense = copy.deepcopy(network.model.bert.pooler.dense)
        self.dropout = nn.Dropout(network.config.hidden_dropout_prob)
        self.out = nn.Linear(hidden, network.labels)

    def forward(self, vector: Tensor) -> Tensor:
        logits: Tensor = self.out(self.dropout(torch.tanh(self.dense(vector))))
        return logits


def deebert(
    network: Network, parts: Parts, *, readout: str, seed: int, schedule: Schedule
) -> tuple[dict[str, Answers], dict[str, Any]]:
    """Train exits by labels, everything else frozen (Xin et al., ACL 2020, second stage)."""
    every = {
        part: torch.from_numpy(vectors(network, getattr(parts, part), readout)[1:-1])
        for part in ("train", "held_out", "test")
    }
    torch.manual_seed(seed)
    exits = nn.ModuleList(Exit(network) for _ in every["train"])
    labels = torch.from_numpy(parts.train.labels)

    def loss(indices: list[int], _epochs: float) -> Tensor:
        each = [F.cross_entropy(exits[i](every["train"][i, indices]), labels[indices]) for i in range(len(exits))]
        return torch.stack(each).sum()

    def logits(part: str) -> Floats:
        exits.train(False)
        with torch.inference_mode():
            return torch.stack([exits[i](every[part][i]) for i in range(len(exits))]).numpy()

    def score() -> float:
        return float(np.mean([accuracy(values, parts.held_out.labels) for values in logits("held_out")]))

    record = Fit(exits, parts.train, loss, score, seed=seed, schedule=schedule).run()
    per_exit = cost.head(network.config, network.labels)
    answers = {
        part: Answers(
            with_reference(logits(part), network, getattr(parts, part)),
            exit_costs(network, getattr(parts, part).lengths, per_exit),
        )
        for part in ("held_out", "test")
    }
    return answers, record | {"readout": readout}


# FastBERT: branches on the frozen reference, by its answers


class Branch(nn.Module):
    """FastBERT's classifier: into a small size, self-attention there, then one vector on to the classes."""

    def __init__(self, network: Network, readout: str) -> None:
        super().__init__()
        self.readout = readout
        self.narrow = nn.Linear(network.config.hidden_size, BRANCH)
        self.qkv = nn.Linear(BRANCH, 3 * BRANCH)
        self.project = nn.Linear(BRANCH, BRANCH)
        self.dense = nn.Linear(BRANCH, BRANCH)
        self.out = nn.Linear(BRANCH, network.labels)

    def forward(self, hidden: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        small = torch.tanh(self.narrow(hidden))
        query, key, value = (part.unsqueeze(1) for part in self.qkv(small).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask(inputs)).squeeze(1)
        mixed = self.project(mixed)
        vector = mixed[:, 0] if self.readout == "cls" else mean_of_tokens(mixed, inputs["attention_mask"])
        logits: Tensor = self.out(torch.tanh(self.dense(vector)))
        return logits


def fastbert(
    network: Network, parts: Parts, *, readout: str, seed: int, schedule: Schedule, state: Path | None = None
) -> tuple[dict[str, Answers], dict[str, Any]]:
    """Train branches to give the frozen reference's answers (Liu et al., ACL 2020, second stage)."""
    torch.manual_seed(seed)
    network.train(False)
    branches = nn.ModuleList(Branch(network, readout) for _ in range(len(network.layers) - 1))

    def every(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            states = network.states(inputs)
            target = network.read(states[-1], inputs["attention_mask"])
        exits = [branch(states[index], inputs) for index, branch in enumerate(branches, start=1)]
        return torch.stack(exits), target

    def loss(indices: list[int], _epochs: float) -> Tensor:
        logits, target = every(parts.train.batch(indices))
        teacher = target.log_softmax(-1)
        each = [F.kl_div(of.log_softmax(-1), teacher, reduction="batchmean", log_target=True) for of in logits]
        return torch.stack(each).sum()

    def logits(rows: Rows) -> Floats:
        branches.train(False)
        return over(rows, lambda inputs: every(inputs)[0])

    def score() -> float:
        return float(np.mean([accuracy(values, parts.held_out.labels) for values in logits(parts.held_out)]))

    record = Fit(branches, parts.train, loss, score, seed=seed, schedule=schedule, state=state).run()

    def answer(rows: Rows) -> Answers:
        per_exit = cost.branch(network.config.hidden_size, BRANCH, network.labels, rows.lengths)
        return Answers(with_reference(logits(rows), network, rows), exit_costs(network, rows.lengths, per_exit))

    return parts.measured(answer), record | {"readout": readout}
