"""The lexical sub-network, against sums written out token by token, and among others in a model."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from helpers.front import front_model, marked, row_of, token_batch
from helpers.tiny import VOCABULARY
from sharcs.config import SharcsConfig
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.spec import LEXICAL_PLACES, front_spec
from sharcs.subnetworks.vectors import token_shares
from sharcs_runtime.policy import flops

FRONT = ("lexical", "recurrent", "compact")


def lexical(*, pairs=False, readout=None, labels=3):
    """Build a model of which a lexical one is the first, with numbers in its bag."""
    model = front_model(front=FRONT if readout is None else FRONT[:1], pairs=pairs, readout=readout, labels=labels)
    part = model.tail.front[0]
    torch.nn.init.normal_(part.bag.weight, generator=torch.Generator().manual_seed(1))
    return model, part


def place(tokens, places):
    """Find the place of a token, or of two neighbours, in the hash."""
    number = tokens[0] if len(tokens) == 1 else tokens[0] * 31_337 + tokens[1] * 7_919
    return number * 48_271 % 2_147_483_647 % places


def written_out(part, row):
    """Answer one input by loops over plain numbers."""
    ids = row["input_ids"][0].tolist()
    types = row.get("token_type_ids", torch.zeros(1, len(ids)))[0].tolist()
    texts = [[token for token, kind in zip(ids, types, strict=True) if kind == text] for text in (0, 1)]
    named = list(ids)
    if part.spec.readout == "matched":
        named = [token + VOCABULARY * is_there for token, is_there in zip(ids, marked(row), strict=True)]
    grams = [[token] for token in named] + [list(two) for two in pairwise(named)]
    bag = sum(part.bag.weight[place(gram, part.spec.neurons)] for gram in grams) / len(ids) ** 0.5
    vectors = part.vectors.weight
    if not part.compares:
        return part.classifier(sum(vectors[token] for token in ids) / len(ids)) + bag
    nothing = torch.zeros(part.spec.hidden)
    one, other = (sum((vectors[t] for t in text), nothing) / max(1, len(text)) for text in texts)
    shares = [
        torch.tensor([sum(token in there for token in here) / max(1, len(here))])
        for here, there in (texts, texts[::-1])
    ]
    more = []
    if part.spec.readout == "matched":
        shared = sum(token in texts[1] for token in texts[0])
        either = max(1, len(texts[0]) + len(texts[1]) - shared)
        more = [torch.tensor([abs(len(texts[0]) - len(texts[1])) / 10]), torch.tensor([shared / either])]
    return part.classifier(torch.cat([one, other, (one - other).abs(), one * other, *shares, *more])) + bag


@pytest.mark.parametrize("readout", ["mean", "aligned", "matched"])
@torch.no_grad()
def test_it_adds_up_tokens_and_neighbours(readout):
    pairs = readout != "mean"
    model, part = lexical(pairs=pairs, readout=readout)
    assert part.spec.readout == readout
    batch = token_batch(pairs=pairs)
    batch["input_ids"][1, 6] = batch["input_ids"][1, 2]  # a token of both texts
    answers = model(**batch, width="lexical").logits
    for number in range(len(batch["input_ids"])):
        torch.testing.assert_close(answers[number], written_out(part, row_of(batch, number)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_order_of_tokens_counts():
    model, _ = lexical()
    ids = torch.tensor([[5, 6, 7], [7, 6, 5], [5, 7, 6]])
    answers = model(input_ids=ids, attention_mask=torch.ones_like(ids), width="lexical").logits
    assert len({tuple(row.tolist()) for row in answers.round(decimals=4)}) == 3


@torch.no_grad()
def test_it_stands_first_among_others_and_unsure_inputs_go_on():
    model, _ = lexical(labels=2)
    assert model.config.names == ["lexical", "recurrent", "compact", "width-25", "full"]
    batch = token_batch()
    alone = model(**batch, widths="all").width_logits
    sure = alone[0].softmax(-1).amax(-1)
    limit = float(sure.median())
    limits = {"lexical": limit, "recurrent": 0.0, "compact": 0.0, "width-25": 0.0}
    model.config.policy = {"start": "lexical", "escalation_threshold": limits}
    outputs = model(**batch)
    went_on = sure < limit
    assert 0 < went_on.sum() < len(sure)
    assert outputs.width_index.tolist() == went_on.long().tolist()
    torch.testing.assert_close(outputs.logits, torch.where(went_on.unsqueeze(1), alone[1], alone[0]))


def test_its_cost_is_what_its_sums_take():
    model, part = lexical(labels=3)
    hidden = part.spec.hidden
    # Of T tokens: T additions and a mean of `hidden` numbers; 2 T numbers a class; a linear classifier.
    assert part.cost() == (2 * hidden * 3, 2 * hidden + 4 * 3, 0)
    costs = model.cost_coefficients()
    assert costs[0].tolist() == list(part.cost())
    assert costs[0].sum() < costs[1].sum() < costs[2].sum()


def test_places_are_fewer_where_there_are_very_many_classes():
    config = lexical()[0].encoder.config
    assert front_spec(config, "lexical").neurons == LEXICAL_PLACES
    config.num_labels = 10_000
    assert front_spec(config, "lexical").neurons == 512  # 5 million numbers


def test_rare_tokens_begin_longer():
    _, part = lexical()
    rows = [{"input_ids": [2, 5, 5, 5]}, {"input_ids": [2, 6]}]
    shares = token_shares(rows, len(part.vectors.weight))
    assert shares[[2, 5, 6]].tolist() == pytest.approx([2 / 6, 3 / 6, 1 / 6])
    part.fill(torch.ones_like(part.vectors.weight), shares)
    lengths = part.vectors.weight[:, 0]
    assert lengths[7] == 1
    assert lengths[6].item() == pytest.approx(1e-3 / (1e-3 + 1 / 6))


def test_the_guide_says_what_those_in_front_cost():
    page = Path(__file__).parents[2] / "docs" / "guides" / "cheap-answers.md"
    said = dict(re.findall(r"^\| `(\w+)` \|.*\| (?:below )?([\d.]+)% \|$", page.read_text(encoding="utf-8"), re.M))
    # MiniLM-L6 but for its vocabulary, which costs nothing, with as many classes as banking77 has.
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    config = BertConfig(**sizes, vocab_size=64, num_labels=77)
    routed = SharcsConfig(encoder=config, front=list(FRONT), widths=[1.0])
    model = SharcsForSequenceClassification(routed, encoder=BertForSequenceClassification(config))
    costs = flops(model.cost_coefficients(), torch.tensor([16]))[0]
    shares = dict(zip(FRONT, (100 * costs / costs[-1]).tolist(), strict=False))
    assert said.keys() == shares.keys()
    assert float(said["lexical"]) - 0.01 < shares["lexical"] < float(said["lexical"])
    assert shares["recurrent"] == pytest.approx(float(said["recurrent"]), abs=0.05)
    assert shares["compact"] == pytest.approx(float(said["compact"]), abs=0.05)
