"""Token classification and question answering, on the encoders of ``encoders`` and on toy rows that ``tiny`` learns.

A new encoder family is one line in ``encoders``; it is tested with each task that transformers has a class for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification

from helpers import encoders, tiny
from helpers.encoders import ENCODERS, NUM_LABELS, Size, SlicedCopy
from sharcs import SharcsConfig, SharcsForQuestionAnswering, SharcsForTokenClassification

FULL_SIZE = Size()
UNLABELLED = -100


@dataclass(frozen=True)
class Kind:
    """A task: its classes, and how many outputs a token has."""

    auto_class: type
    routed_class: type
    num_labels: int


KINDS = {
    "tokens": Kind(AutoModelForTokenClassification, SharcsForTokenClassification, NUM_LABELS),
    "spans": Kind(AutoModelForQuestionAnswering, SharcsForQuestionAnswering, 2),
}


def config_of(family, kind, size=FULL_SIZE):
    """Build the configuration of a plain model."""
    config = ENCODERS[family](size)
    config.num_labels = KINDS[kind].num_labels
    return config


def is_known(family, kind):
    """Tell whether transformers has a class of the family for the task."""
    return type(ENCODERS[family]()) in KINDS[kind].auto_class._model_mapping


MATRIX = [(family, kind) for family in ENCODERS for kind in KINDS if is_known(family, kind)]


def save_plain(family, kind, directory):
    """Save a plain model with random weights and return its directory."""
    configs = {family: lambda: config_of(family, kind)}
    return encoders.save_plain(family, directory, auto_class=KINDS[kind].auto_class, configs=configs)


def load_plain(kind, path, **kwargs):
    """Load the plain Hugging Face model."""
    return encoders.load_plain(path, KINDS[kind].auto_class, **kwargs)


def load_routed(kind, path, **kwargs):
    """Wrap it, with random values in all that wrapping adds."""
    return encoders.load_routed(path, routed_class=KINDS[kind].routed_class, **kwargs)


def answers(outputs):
    """Take the scores of every token from a plain model's outputs or a routed one's: ``[batch, tokens, labels]``."""
    if outputs.get("logits") is not None:
        return outputs.logits
    return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)


def labels_for(kind, lengths):
    """Label a batch of four: some tokens and one text without a label, one answer past the text."""
    if kind == "spans":
        starts, ends = [0, 3, 0, max(lengths) + 5], [1, 5, 0, 2]
        return {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}
    labels = torch.arange(len(lengths) * max(lengths)).reshape(len(lengths), -1) % NUM_LABELS
    labels[:, 1::3] = UNLABELLED
    labels[2] = UNLABELLED
    for row, length in enumerate(lengths):
        labels[row, length:] = UNLABELLED
    return {"labels": labels}


class TokenCopy(SlicedCopy):
    """The sub-network of one width as a plain narrow model; see :class:`encoders.SlicedCopy`."""

    def __init__(self, family, kind, *args, **kwargs):
        """Choose the Auto class."""
        self.auto_class = KINDS[kind].auto_class
        self.configs = {family: lambda size: config_of(family, kind, size)}
        super().__init__(family, *args, **kwargs)


# Toy tasks


def toy_rows(kind, count, *, seed=0):
    """Make rows that name themselves, as :func:`tiny.toy_rows` does, with labels that their tokens tell.

    A token is of class 0 or 1 by its parity, and the fourth is of class 2; every seventh row has no label. An answer
    goes from the token 6 to the token 7; of every seventh row it starts past the text.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = tiny.toy_rows(count, seed=seed)
    for number, row in enumerate(rows):
        ids = row["input_ids"] = [*row["input_ids"][:-1], 50, 51, 2]
        row["attention_mask"] = [1] * len(ids)
        del row["labels"]
        if kind == "spans":
            start, end = sorted(torch.randint(4, len(ids), (2,), generator=generator).tolist())
            ids[end] = 7
            ids[start:start] = [6]
            row["attention_mask"] = [1] * len(ids)
            past = 500 if number % 2 else len(ids)  # where other texts of a batch go on
            row |= {"start_positions": start if number % 7 else past, "end_positions": end + 1}
        else:
            classes = [UNLABELLED] * 3 + [2] + [word % 2 for word in ids[4:-1]] + [UNLABELLED]
            row["labels"] = classes if number % 7 else [UNLABELLED] * len(ids)
    return rows


def collate(rows):
    """Pad rows to a batch."""
    batch = tiny.collate([{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows])
    if "labels" in rows[0]:
        columns = batch["input_ids"].shape[1]
        labels = [list(row["labels"]) + [UNLABELLED] * (columns - len(row["labels"])) for row in rows]
        batch["labels"] = torch.tensor(labels)
    for name in ("start_positions", "end_positions"):
        if name in rows[0]:
            batch[name] = torch.tensor([int(row[name]) for row in rows])
    return batch


def toy_model(kind, *, widths=(0.25, 1.0), seed=0, weights="shared"):
    """Build a small routed BERT with random weights, dropout on."""
    config = tiny.CONFIGS["bert"](3)
    config.num_labels = KINDS[kind].num_labels
    torch.manual_seed(seed)
    encoder = KINDS[kind].auto_class.from_config(config)
    settings = {"widths": list(widths), "router_layer": 1, "router_hidden_size": 16, "weights": weights}
    routed = SharcsConfig(encoder=encoder.config, **settings)
    return KINDS[kind].routed_class(routed, encoder=encoder)
