"""Small networks that learn from labels and from the reference's answers: its first layers, a GRU, static vectors."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.decomposition import PCA
from torch import Tensor, nn

from judge import cost
from judge.networks import Network, accuracy, over
from judge.training import Fit, Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from judge.data import Rows

TEMPERATURE = 2.0
GRU_INPUTS, GRU_UNITS = 128, 64
STATIC_SIZE = 256


def student_loss(logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Learn from the teacher's answers and, where a row has a label, from that as much.

    Args:
        logits: ``[batch, classes]``.
        teacher: The teacher's, of the same shape.
        labels: int64 ``[batch]``; −1 for none.
    """
    soft = (teacher / TEMPERATURE).log_softmax(-1)
    mine = (logits / TEMPERATURE).log_softmax(-1)
    distance = F.kl_div(mine, soft, reduction="none", log_target=True).sum(-1) * TEMPERATURE**2
    hard = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    labelled = (labels >= 0).to(logits.dtype)
    return (distance * (1 - labelled / 2) + hard * labelled / 2).mean()


def distilled(
    model: nn.Module,
    rows: Rows,
    teacher: NDArray[np.float32],
    held_out: Rows,
    *,
    seed: int,
    schedule: Schedule,
    state: Path | None = None,
) -> dict[str, Any]:
    """Train a small network on rows that the teacher has answered, ``[rows, classes]``; returns the record."""
    labels = torch.from_numpy(rows.labels)
    answers = torch.from_numpy(teacher)

    def loss(indices: list[int], _epochs: float) -> Tensor:
        return student_loss(model(rows.batch(indices)), answers[indices], labels[indices])

    def score() -> float:
        model.train(False)
        return accuracy(over(held_out, model), held_out.labels)

    return Fit(model, rows, loss, score, seed=seed, schedule=schedule, state=state).run()


def first_layers(network: Network, layers: int, readout: str, seed: int) -> Network:
    """Take the reference's embeddings and first layers, with a new classifier unless it reads the same."""
    torch.manual_seed(seed)
    student = Network(network.labels, readout, layers)
    student.model.bert.embeddings.load_state_dict(network.model.bert.embeddings.state_dict())
    for mine, theirs in zip(student.layers, network.layers, strict=False):
        mine.load_state_dict(theirs.state_dict())
    if readout == network.readout:
        student.model.classifier = copy.deepcopy(network.model.classifier)
        student.model.bert.pooler = copy.deepcopy(network.model.bert.pooler)
    return student


@torch.inference_mode()
def token_vectors(network: Network, size: int, seed: int) -> NDArray[np.float32]:
    """What the reference says about every token alone, by principal components: ``[vocabulary, size]``.

    The mean over [CLS], the token and [SEP], as model2vec takes it.
    """
    network.train(False)
    vocabulary = network.config.vocab_size
    cls, sep = 101, 102
    parts = []
    for start in range(0, vocabulary, 1024):
        ids = torch.arange(start, min(vocabulary, start + 1024))
        tokens = torch.stack([torch.full_like(ids, cls), ids, torch.full_like(ids, sep)], dim=1)
        inputs = {
            "input_ids": tokens,
            "token_type_ids": torch.zeros_like(tokens),
            "attention_mask": torch.ones_like(tokens),
        }
        parts.append(network.states(inputs)[-1].mean(1).numpy())
    vectors = PCA(size, random_state=seed).fit_transform(np.concatenate(parts)).astype(np.float32)
    return vectors / vectors.std()  # type: ignore[no-any-return]


def zipf_weights(rows: Rows, vocabulary: int) -> NDArray[np.float32]:
    """Weigh tokens by how seldom they are in train: a / (a + share), Arora's weights, with a of 1e-3."""
    counts = np.bincount(np.concatenate([np.array(ids) for ids in rows.ids]), minlength=vocabulary)
    return (1e-3 / (1e-3 + counts / counts.sum())).astype(np.float32)


class TokenModel(nn.Module):
    """A classifier on vectors of tokens; of a pair, both texts are read alike and compared (Tang et al. 2019).

    Args:
        vectors: Of each token, ``[vocabulary, size]``.
        trained: The tokens whose vectors are trained on: those that occur in train.
        labels: How many classes there are.
        pairs: Whether inputs are pairs.
        units: Of the GRU in each direction; 0 for a mean of the vectors.
    """

    def __init__(
        self, vectors: NDArray[np.float32], trained: NDArray[np.int64], labels: int, *, pairs: bool, units: int = 0
    ) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.from_numpy(vectors), persistent=False)
        place = torch.full((len(vectors),), -1, dtype=torch.long)
        place[torch.from_numpy(trained)] = torch.arange(len(trained))
        self.register_buffer("place", place, persistent=False)
        # A table of the tokens that occur: to update all others, which never change, would take most of the time.
        self.table = nn.Parameter(torch.from_numpy(vectors[trained]))
        self.units = units
        self.labels = labels
        self.pairs = pairs
        size = vectors.shape[1]
        if units:
            self.gru = nn.GRU(size, units, batch_first=True, bidirectional=True)
            size = 4 * units
        self.dropout = nn.Dropout(0.2)
        self.size = size
        self.out = nn.Linear(4 * size if pairs else size, labels)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Classify a batch: ``[batch, labels]``."""
        mask = inputs["attention_mask"].bool()
        if not self.pairs:
            logits: Tensor = self.out(self.dropout(self._read(inputs["input_ids"], mask)))
            return logits
        second = inputs["token_type_ids"].bool() & mask
        one, other = self._read(inputs["input_ids"], mask & ~second), self._read(inputs["input_ids"], second)
        logits = self.out(self.dropout(torch.cat([one, other, (one - other).abs(), one * other], dim=-1)))
        return logits

    def _read(self, ids: Tensor, chosen: Tensor) -> Tensor:
        """Read the chosen tokens, bool ``[batch, tokens]``: ``[batch, size]``."""
        # Chosen tokens first, so that a GRU runs over nothing in between.
        order = (~chosen).to(torch.int8).argsort(dim=1, stable=True)
        ids, chosen = ids.gather(1, order), chosen.gather(1, order)
        lengths = chosen.sum(1)
        longest = int(lengths.max())
        ids, chosen = ids[:, :longest], chosen[:, :longest]
        place = self.place[ids]  # type: ignore[index]
        vectors = torch.where(place.unsqueeze(-1) >= 0, self.table[place.clamp(min=0)], self.vectors[ids])  # type: ignore[index]
        real = chosen.unsqueeze(-1)
        if not self.units:
            return (vectors * real).sum(1) / lengths.clamp(min=1).unsqueeze(-1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(vectors), lengths.clamp(min=1), batch_first=True, enforce_sorted=False
        )
        outputs, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=longest)
        mean = (outputs * real).sum(1) / lengths.clamp(min=1).unsqueeze(-1)
        most = outputs.masked_fill(~real, -1e4).amax(1)
        return torch.cat([mean, most], dim=-1)

    def flops(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """What it costs on inputs of these lengths."""
        head = 2.0 * self.out.in_features * self.labels
        if not self.units:
            return np.full(len(lengths), head) + 2.0 * lengths * self.size
        return cost.gru(self.table.shape[1], self.units, 0, lengths) + head
