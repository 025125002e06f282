"""Tiny routed encoders with sub-networks in front, and batches for them."""

from dataclasses import replace

import torch
from transformers import BertTokenizerFast

from helpers.tiny import VOCABULARY, tiny_encoder
from sharcs.config import SharcsConfig
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.spec import front_spec

KINDS = ("recurrent", "compact")
WORDS = [f"w{number}" for number in range(VOCABULARY - 5)]
TEXTS = [
    " ".join(WORDS[(7 * row + 3 * place * row) % len(WORDS)] for place in range(1 + row % 11)) for row in range(90)
]


def word_tokenizer(folder):
    """Make a tokenizer of these encoders, a word a token."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=24)


def front_model(
    kind="bert", *, front=KINDS, pairs=False, readout=None, widths=(0.25, 1.0), labels=2, layers=4, seed=0
):
    """Build a routed classifier whose sub-networks in front have random weights, large enough to disagree."""
    encoder = tiny_encoder(kind, layers=layers, labels=labels, seed=seed)
    specs = [front_spec(encoder.config, name, pairs=pairs) for name in front]
    if readout is not None:
        specs = [replace(spec, readout=readout) for spec in specs]
    config = SharcsConfig(
        encoder=encoder.config,
        widths=list(widths),
        front=[spec.to_dict() for spec in specs],
        router_layer=1,
        router_hidden_size=16,
        id2label=encoder.config.id2label,
        label2id=encoder.config.label2id,
        problem_type="single_label_classification",
    )
    model = SharcsForSequenceClassification(config, encoder=encoder)
    with torch.no_grad():
        for part in model.tail.front:
            part.classifier.weight.mul_(4)
            if getattr(part, "matched", None) is not None:
                part.matched.copy_(torch.linspace(-1, 1, len(part.matched)))
    return model.train(False)


def token_batch(lengths=(3, 9, 5, 1, 7, 6), *, pairs=False, seed=0):
    """Make a batch of random tokens, padded; of pairs, the second text begins in the middle."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(5, VOCABULARY, (len(lengths), longest), generator=generator)
    mask = (torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    if pairs:
        batch["token_type_ids"] = (torch.arange(longest) >= torch.tensor(lengths).unsqueeze(1) // 2).long() * mask
    return batch


def row_of(batch, row):
    """Take one row of a batch, without its padding."""
    count = int(batch["attention_mask"][row].sum())
    return {name: value[row : row + 1, :count] for name, value in batch.items()}


def marked(row):
    """Tell, token by token of one row, which are in the other text of the pair, too."""
    ids, types = row["input_ids"][0].tolist(), row["token_type_ids"][0].tolist()
    texts = [{token for token, kind in zip(ids, types, strict=True) if kind == text} for text in (0, 1)]
    return [token in texts[1 - kind] for token, kind in zip(ids, types, strict=True)]
