"""Sub-networks in front of the encoder, against torch's own GRU, a plain short encoder, and one input at a time."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AlbertConfig, AlbertForSequenceClassification, AutoModel

from helpers.front import KINDS, front_model, marked, row_of, token_batch
from helpers.tiny import CONFIGS, tiny_encoder
from sharcs import RoutingPolicy, SharcsConfig
from sharcs.encoders.architectures import body_of
from sharcs.encoders.layers import parts_of
from sharcs.encoders.units import masked
from sharcs.errors import InputError
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.model.tokens import SharcsForTokenClassification
from sharcs.spec import front_spec
from sharcs_runtime.cascade import Cascade

EVERY = ["recurrent", "compact", "width-25", "full"]


def alike_pairs():
    """Make pairs whose texts have some tokens in both."""
    batch = token_batch(pairs=True)
    batch["input_ids"] = batch["input_ids"] % 9 + 5 * (batch["input_ids"] > 0)
    return batch


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_an_answer_depends_on_nothing_that_it_is_batched_with(kind, pairs):
    model, batch = front_model(kind, pairs=pairs), token_batch(pairs=pairs)
    if kind in ("roberta", "distilbert", "mpnet"):
        batch.pop("token_type_ids", None)
    every = model(**batch, widths="all").width_logits
    assert model.config.names == EVERY
    for row in range(len(batch["input_ids"])):
        alone = model(**row_of(batch, row), widths="all").width_logits
        torch.testing.assert_close(alone[:, 0], every[:, row], rtol=1e-4, atol=1e-5)
    for index, (name, key) in enumerate(zip(model.config.names, model.config.keys, strict=True)):
        for asked in (name, key):
            forced = model(**batch, width=asked)
            torch.testing.assert_close(forced.logits, every[index], rtol=1e-5, atol=1e-6)
            assert forced.width_index.tolist() == [index] * 6
    mixed = model(**batch, width_index=torch.tensor([3, 0, 1, 2, 0, 1]))
    for row, index in enumerate([3, 0, 1, 2, 0, 1]):
        torch.testing.assert_close(mixed.logits[row], every[index, row], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(**batch, widths="front").width_logits, every[:2])


@torch.no_grad()
def test_the_recurrent_one_is_a_gru_in_both_directions():
    model = front_model(front=("recurrent",))
    part, batch = model.tail.front[0], token_batch()
    both = nn.GRU(part.spec.hidden, part.spec.neurons, batch_first=True, bidirectional=True)
    for ours, suffix in ((part.forwards, ""), (part.backwards, "_reverse")):
        for name, value in ours.named_parameters():
            getattr(both, name + suffix).copy_(value)
    vectors, lengths = part.vectors(batch["input_ids"]), batch["attention_mask"].sum(1)
    packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
    outputs, _ = nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)
    for row, length in enumerate(lengths):
        states = outputs[row, :length]
        expected = part.classifier(torch.cat([states.mean(0), states.amax(0)]))
        torch.testing.assert_close(model(**batch, width="recurrent").logits[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("readout", ["aligned", "matched"])
@torch.no_grad()
def test_a_pair_is_compared_word_by_word(readout):
    model, batch = front_model(front=("recurrent",), pairs=True, readout=readout), alike_pairs()
    part = model.tail.front[0]
    size = 2 * part.spec.neurons
    for row in range(len(batch["input_ids"])):
        one = row_of(batch, row)
        vectors = part.vectors(one["input_ids"])
        if readout == "matched":
            vectors[0, marked(one)] += part.matched
        states = part._read(vectors, one["attention_mask"])[0]
        first = (one["token_type_ids"][0] == 0).nonzero().flatten().tolist()
        second = (one["token_type_ids"][0] == 1).nonzero().flatten().tolist()
        pooled = []
        for text, other in ((first, second), (second, first)):
            compared = []
            for token in text:
                likeness = torch.stack([states[token] @ states[at] / size**0.5 for at in other]) if other else None
                if likeness is None:
                    like = torch.zeros(size)  # of nothing, nothing is like
                else:
                    like = (likeness.softmax(0).unsqueeze(1) * states[other]).sum(0)
                both = torch.cat([states[token], like, states[token] - like, states[token] * like])
                compared.append(part.compare(both).relu())
            if not compared:
                pooled += [torch.zeros(size), torch.zeros(size)]
                continue
            stacked = torch.stack(compared)
            pooled += [stacked.mean(0), stacked.amax(0)]
        expected = part.classifier(torch.cat(pooled))
        torch.testing.assert_close(model(**one, width="recurrent").logits[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_compact_one_reads_which_tokens_of_a_pair_are_in_both():
    model, batch = front_model(front=("compact",), pairs=True), alike_pairs()
    before = front_model(front=("compact",), pairs=True, readout="mean")
    (part,), (plain,) = model.tail.front, before.tail.front
    assert (part.spec.readout, plain.matched) == ("matched", None)
    plain.load_state_dict(part.state_dict(), strict=False)
    answers = model(**batch, width="compact").logits
    unlike = 0
    for row in range(len(batch["input_ids"])):
        one = row_of(batch, row)
        added = torch.tensor(marked(one)).unsqueeze(-1) * part.matched
        # Which add up what the layers read.
        handle = body_of(before.encoder).embeddings.register_forward_hook(
            lambda *hooked, more=added: hooked[2] + more
        )
        expected = before(**one, width="compact").logits[0]
        handle.remove()
        torch.testing.assert_close(answers[row], expected, rtol=1e-4, atol=1e-5)
        unlike += not torch.allclose(answers[row], before(**one, width="compact").logits[0], atol=1e-3)
    assert unlike == sum(any(marked(row_of(batch, row))) for row in range(len(batch["input_ids"]))) > 2


@torch.no_grad()
def test_without_token_types_the_second_text_stands_behind_the_first_separator():
    model = front_model(front=("recurrent",), pairs=True)
    ids = torch.tensor([[1, 7, 8, 2, 9, 10, 2, 0], [1, 5, 2, 2, 6, 7, 8, 2], [1, 5, 6, 2, 0, 0, 0, 0]])
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1], [0] * 8])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    told = model(**batch, token_type_ids=types, width="recurrent").logits
    torch.testing.assert_close(model(**batch, width="recurrent").logits, told)
    other = model(**batch, token_type_ids=1 - types, width="recurrent").logits
    assert not torch.allclose(other, told, atol=1e-3)


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta"])
@torch.no_grad()
def test_the_compact_one_is_a_short_encoder_with_heads_and_neurons_switched_off(kind):
    model, batch = front_model(kind, front=("compact",)), token_batch()
    part = model.tail.front[0]
    assert (part.spec.layers, part.spec.heads) == (2, 1)
    plain = tiny_encoder(kind, layers=4, labels=2, seed=0)
    config = CONFIGS[kind](2)
    short = AutoModel.from_config(config)
    short.load_state_dict(body_of(plain).state_dict(), strict=False)
    short.train(False)
    for layer in parts_of(list(short.encoder.layer), config):
        for module, units, kept in ((layer.output, 4, 1), (layer.down, layer.down.in_features, part.spec.neurons)):
            module.register_forward_pre_hook(masked((torch.arange(units) < kept).float()))
    states = short(**batch).last_hidden_state
    weights = batch["attention_mask"].unsqueeze(-1).float()
    expected = part.classifier((states * weights).sum(1) / weights.sum(1))
    torch.testing.assert_close(model(**batch, width="compact").logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pairs", [False, True])
@torch.no_grad()
def test_a_way_costs_what_runs_on_it(pairs):
    from sharcs.evaluation.widths import way_coefficients
    from sharcs_runtime.ways import ways_of

    model = front_model(pairs=pairs)
    one = row_of(token_batch(pairs=pairs), 1)
    count = one["input_ids"].shape[1]
    ways = ways_of(4)
    costs = way_coefficients(model, ways) @ [1.0, count, count**2]
    for way, cost in zip(ways, costs, strict=False):
        names = [EVERY[index] for index in way]
        model.config.policy = {"start": names[0], "escalation_threshold": dict.fromkeys(names[:-1], 1.0) or None}
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            taken = model(**one)
        if way[-1] != 3:
            continue  # a chain ends with the full network
        assert taken.width_index.tolist() == [3]
        assert counter.get_total_flops() == pytest.approx(cost, rel=1e-3), names


@pytest.mark.parametrize("blend", [0.0, 0.4])
@torch.no_grad()
def test_unsure_answers_go_on_in_front_and_inside_as_one_by_one(blend):
    model, batch = front_model(), token_batch(tuple(range(1, 13)) * 3, seed=2)
    every = model(**batch, widths="all").width_logits
    confidence = every.softmax(-1).amax(-1)
    # Between two answers' scores, so that rounding decides nothing.
    limits = {name: float(confidence[index].sort().values[17:19].mean()) for index, name in enumerate(EVERY[:-1])}
    policy = RoutingPolicy(start="recurrent", escalation_threshold=limits, blend=blend)
    model.config.policy = policy.to_dict()
    routed = model(**batch)
    ends = set()
    for row in range(len(batch["input_ids"])):
        cascade = Cascade(policy, EVERY, 1)
        cascade.begin(np.array([0]), 0)
        while pending := cascade.pending():
            (index,) = pending
            cascade.put(index, np.array([0]), every[index, row : row + 1].numpy())
        ends.add(int(cascade.answered_by[0]))
        assert routed.width_index[row] == cascade.answered_by[0]
        torch.testing.assert_close(routed.logits[row].softmax(-1), torch.from_numpy(cascade.logits[0]).softmax(-1))
    assert len(ends) >= 3 if blend else ends == {0, 1, 2, 3}
    assert routed.first_width_index.tolist() == [0] * 36
    assert routed.router_logits is None


@torch.no_grad()
def test_the_router_never_chooses_what_stands_in_front():
    model, batch = front_model(), token_batch()
    for weight in (0.0, 1e3, -1e3):
        model.config.policy = {"cost_weight": weight}
        routed = model(**batch)
        assert bool((routed.width_index >= 2).all())
        assert bool(routed.router_logits[:, :2].isneginf().all())
    assert set(routed.width_index.tolist()) == {3}


@torch.no_grad()
def test_saved_prepared_and_in_eager_attention_it_answers_the_same(tmp_path):
    model, batch = front_model(), token_batch()
    every = model(**batch, widths="all").width_logits
    model.save_pretrained(tmp_path)
    again = SharcsForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.to_dict()["subnetworks"] == model.config.to_dict()["subnetworks"]
    torch.testing.assert_close(again(**batch, widths="all").width_logits, every, rtol=0, atol=0)
    model.prepare_for_inference()
    with torch.inference_mode():
        torch.testing.assert_close(model(**batch, widths="all").width_logits, every, rtol=1e-4, atol=1e-5)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**batch, widths="all").width_logits, every, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_changed_weights_of_a_prepared_network_are_seen():
    model, batch = front_model(), token_batch()
    model.prepare_for_inference()
    with torch.inference_mode():
        before = model(**batch, width="compact").logits.clone()
    next(model.tail.front[1].inner.layers.parameters()).add_(1.0)
    with torch.inference_mode():
        assert not torch.allclose(model(**batch, width="compact").logits, before)


def test_what_has_no_place_in_front_is_refused():
    config = tiny_encoder("bert", layers=4, labels=2).config
    with pytest.raises(InputError, match="front recurrent, recurrent: one comes twice"):
        SharcsConfig(encoder=config, front=["recurrent", "recurrent"])
    with pytest.raises(InputError, match="sub-network 'lstm': there is none; name lexical, recurrent, compact"):
        SharcsConfig(encoder=config, front=["lstm"])
    with pytest.raises(InputError, match="front recurrent: the paper's recipe has none"):
        SharcsConfig(encoder=config, front=["recurrent"], weights="shared")
    with pytest.raises(InputError, match="front compact: answer with one class for each input"):
        SharcsConfig(encoder=config, front=["compact"], problem_type="regression")
    unknown = front_spec(config, "recurrent").to_dict() | {"readout": "last"}
    with pytest.raises(InputError, match="of kind recurrent with readout last is not known; update sharcs"):
        SharcsConfig(encoder=config, front=[unknown])
    with pytest.raises(InputError, match="front: answers with one class for each input, and this model with more"):
        SharcsForTokenClassification(SharcsConfig(encoder=config, front=["compact"]))
    model = front_model()
    with pytest.raises(InputError, match=r"width 0: the network has the widths recurrent, compact, 0\.25, 1"):
        model(**token_batch(), width=0.0)


@pytest.mark.parametrize("front", [("recurrent",), ("compact",), KINDS])
@torch.no_grad()
def test_the_full_network_alone_may_stand_behind(front):
    model, batch = front_model(front=front, widths=(1.0,)), token_batch()
    plain = tiny_encoder("bert", layers=4, labels=2, seed=0).train(False)
    torch.testing.assert_close(model(**batch, width=1.0).logits, plain(**batch).logits, rtol=0, atol=0)
    model.config.policy = {"start": front[0], "escalation_threshold": dict.fromkeys(front, 1.0)}
    torch.testing.assert_close(model(**batch).logits, plain(**batch).logits)


@pytest.mark.parametrize("kind", [*CONFIGS, "albert"])
@torch.no_grad()
def test_a_head_that_reads_the_mean_is_the_plain_head_on_the_mean(kind, tmp_path):
    encoder = tiny_encoder(kind, layers=3, labels=2, seed=0) if kind in CONFIGS else tiny_albert()
    encoder.save_pretrained(tmp_path)
    model = SharcsForSequenceClassification.from_encoder(tmp_path, readout="mean", num_labels=2)
    plain = type(encoder).from_pretrained(tmp_path).train(False)
    batch = token_batch()
    states = body_of(plain)(**batch, output_hidden_states=True).hidden_states[-1]
    weights = batch["attention_mask"].unsqueeze(-1).float()
    mean = (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    replaced = torch.cat([mean, states[:, 1:]], dim=1)
    body = body_of(plain)
    if getattr(body, "pooler", None) is not None:
        read = body.pooler(replaced) if kind != "albert" else torch.tanh(body.pooler(mean[:, 0]))
        expected = plain.classifier(read)
    elif hasattr(plain, "pre_classifier"):
        expected = plain.classifier(plain.pre_classifier(mean[:, 0]).relu())
    else:
        expected = plain.classifier(replaced)
    torch.testing.assert_close(model(**batch, width=1.0).logits, expected, rtol=1e-4, atol=1e-5)
    first = SharcsForSequenceClassification.from_encoder(tmp_path, num_labels=2)
    assert not torch.allclose(first(**batch, width=1.0).logits, expected, atol=1e-3)
    model.save_pretrained(tmp_path / "saved")
    again = SharcsForSequenceClassification.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(**batch, widths="all").width_logits, model(**batch, widths="all").width_logits)


def tiny_albert():
    settings = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    config = AlbertConfig(**settings, num_hidden_layers=3, embedding_size=16, classifier_dropout_prob=0.0)
    return AlbertForSequenceClassification(config)


def test_a_read_out_that_changes_nothing_is_refused():
    config = tiny_encoder("bert", layers=4, labels=2).config
    with pytest.raises(InputError, match="readout 'last': has to be first or mean"):
        SharcsConfig(encoder=config, readout="last")
    with pytest.raises(InputError, match="readout mean: BertForTokenClassification doesn't read the first token"):
        SharcsForTokenClassification(SharcsConfig(encoder=config, readout="mean"))
