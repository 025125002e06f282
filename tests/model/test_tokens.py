"""Routed models of tokens: plain models, sliced copies, texts one by one, answers by hand, the FLOP counter."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from helpers import encoders
from helpers.encoders import WIDTHS, make_batch, row_of
from helpers.tokens import (
    KINDS,
    MATRIX,
    TokenCopy,
    answers,
    config_of,
    is_known,
    labels_for,
    load_plain,
    load_routed,
    save_plain,
    toy_model,
)
from sharcs import (
    InputError,
    SharcsConfig,
    SharcsForQuestionAnswering,
    SharcsForSequenceClassification,
    SharcsForTokenClassification,
    SharcsOutput,
)
from sharcs.model.layer_list import trunk_layers
from sharcs_runtime.policy import flops

LENGTHS = [4, 9, 1, 6]
MIXED = torch.tensor([1, 0, 2, 0])
REAL = [[column < length for column in range(9)] for length in LENGTHS]
FULL = len(WIDTHS) - 1
each_model = pytest.mark.parametrize(("family", "kind"), MATRIX)
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Save each plain model once."""
    known, folder = {}, tmp_path_factory.mktemp("tokens")

    def get(family, kind):
        if (family, kind) not in known:
            known[family, kind] = save_plain(family, kind, folder / family / kind)
        return known[family, kind]

    return get


@pytest.fixture(scope="module")
def plain_model(paths):
    """Load each plain model once, for tests that only read it."""
    known = {}

    def get(family, kind):
        if (family, kind) not in known:
            known[family, kind] = load_plain(kind, paths(family, kind), attn_implementation="eager")
        return known[family, kind]

    return get


@pytest.fixture(scope="module")
def shared(paths):
    """Load each model once, for tests that only read it; attention is eager, which the FLOP counter sees."""
    known = {}

    def get(family, kind):
        if (family, kind) not in known:
            known[family, kind] = load_routed(kind, paths(family, kind), attn_implementation="eager")
        known[family, kind].config.policy = {"cost_weight": 0.0}
        return known[family, kind]

    return get


@torch.no_grad()
def run(model, batch, **kwargs):
    return model(**batch, **kwargs)


def counted(model, **inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops()


def real_tokens(tensor):
    """Take the real tokens from ``[batch, tokens or more, ...]``."""
    return tensor[:, :9][torch.tensor(REAL)]


@each_model
def test_full_width_is_the_plain_model_bit_for_bit_before_and_after_saving(
    plain_model, shared, tmp_path, family, kind
):
    plain, routed = plain_model(family, kind), shared(family, kind)
    batch, labels = make_batch(plain.config, LENGTHS), labels_for(kind, LENGTHS)
    expected = run(plain, batch, **labels)
    routed.save_pretrained(tmp_path)
    loaded = KINDS[kind].auto_class.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(loaded) is KINDS[kind].routed_class
    for model in (routed, loaded):
        output = run(model, batch, **labels, width=1.0)
        assert torch.equal(answers(output), answers(expected))
        assert torch.equal(output.loss, expected.loss)
        ids = {"input_ids": batch["input_ids"]}
        assert torch.equal(answers(run(model, ids, width=1.0)), answers(run(plain, ids)))
    for width in WIDTHS[:-1]:
        assert torch.equal(*(answers(run(model, batch, width=width)) for model in (routed, loaded)))


@each_model
def test_a_sub_network_is_a_plain_narrow_model_with_sliced_weights(paths, shared, family, kind):
    routed = shared(family, kind)
    batch, labels = make_batch(routed.encoder.config, LENGTHS), labels_for(kind, LENGTHS)
    full = answers(run(routed, batch, width=1.0))
    for index in range(FULL if family == "bert" else 1):
        dense = TokenCopy(family, kind, paths(family, kind), routed, index, attn_implementation="eager")
        expected = run(dense, batch, **labels)
        output = run(routed, batch, **labels, width=WIDTHS[index])
        torch.testing.assert_close(answers(output), answers(expected), rtol=0, atol=1e-6)
        torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=1e-6)
        assert not torch.allclose(answers(output), full, atol=1e-3)


@each_model
def test_a_mixed_batch_with_any_padding_equals_texts_run_one_by_one(shared, family, kind):
    model = shared(family, kind)
    batch = make_batch(model.encoder.config, LENGTHS)
    alone = [run(model, row_of(batch, row), width=WIDTHS[index]) for row, index in enumerate(MIXED.tolist())]
    for columns in (9, 14):
        together = run(model, make_batch(model.encoder.config, LENGTHS, columns), width_index=MIXED)
        assert together.width_index.tolist() == MIXED.tolist()
        expected = torch.cat([answers(output)[0] for output in alone])
        torch.testing.assert_close(real_tokens(answers(together)), expected, rtol=0, atol=1e-5)
        scores = torch.cat([output.router_logits for output in alone])
        torch.testing.assert_close(together.router_logits, scores, rtol=0, atol=1e-5)


@each_model
def test_gradients_reach_every_shared_weight_and_the_head(shared, family, kind):
    model = copy.deepcopy(shared(family, kind))
    batch = make_batch(model.encoder.config, LENGTHS)
    model(**batch, **labels_for(kind, LENGTHS), width=WIDTHS[0]).loss.backward()
    layers = {id(p): n for layer in model.tail.layers for n, p in layer.named_parameters()}
    no_use = re.compile(r"norm|\bln\b|(key|\.k|k_lin|k_proj|key_proj)\.bias", re.IGNORECASE)  # which no softmax heeds
    later = {name for name, p in model.named_parameters() if id(p) in layers and not no_use.search(name)}
    head = {name for name, _ in model.named_parameters() if re.match(r"encoder\.(classifier|qa_outputs)\.", name)}
    assert len(head) == 2
    for name, parameter in model.named_parameters():
        if name in later | head:
            assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in model.tail.router.parameters())


@each_model
def test_texts_that_continue_equal_direct_ones_and_run_nothing_before_the_router(shared, family, kind):
    model = shared(family, kind)
    batch, calls = make_batch(model.encoder.config, LENGTHS), []
    direct = torch.stack([answers(run(model, batch, width=width)) for width in WIDTHS])
    (below,) = trunk_layers(model.encoder)
    once = 1 if below not in model.tail.layers else 1 + len(model.tail.layers)  # ALBERT's runs behind the router, too
    with below.register_forward_hook(lambda *_: calls.append(1)):
        every = run(model, batch, widths="all")
        assert len(calls) == once
        narrow = run(model, batch, widths="narrow")
        hidden = run(model.run_trunk, batch).hidden
    mask = batch["attention_mask"]
    padded = F.pad(hidden, (0, 0, 0, 3), value=7.0), F.pad(mask, (0, 3))
    for index, width in enumerate(WIDTHS):
        kept = run(model.run_tail, {"hidden": hidden, "attention_mask": mask}, width=width)
        torch.testing.assert_close(kept, direct[index], atol=1e-6, rtol=1e-5)
        anew = run(model.run_tail, dict(zip(("hidden", "attention_mask"), padded, strict=True)), width=width)
        torch.testing.assert_close(real_tokens(anew), real_tokens(direct[index]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(every.width_logits, direct, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(narrow.width_logits, direct[:-1], atol=1e-6, rtol=1e-5)
    assert torch.equal(answers(every), direct[-1])
    assert (narrow.loss, narrow.logits, narrow.start_logits, narrow.end_logits) == (None,) * 4


@each_model
def test_cost_is_what_the_flop_counter_counts(plain_model, shared, family, kind):
    plain, model = plain_model(family, kind), shared(family, kind)
    batch = make_batch(plain.config, [7])
    cost = flops(model.cost_coefficients(), torch.tensor([7]))[0].tolist()
    assert cost == [*(counted(model, **batch, width=width) for width in WIDTHS), counted(plain, **batch)]
    # Escalation; without a cost weight, since the counter sees the policy's own few products.
    model.config.policy = {"cost_weight": 0.0, "escalation_threshold": 1.0}
    index = int(run(model, batch).first_width_index)
    going_on = flops(model.continuation_coefficients().unsqueeze(0), torch.tensor([7])).item()
    assert counted(model, **batch) == cost[index] + (going_on if index < FULL else 0)


# Escalation, by hand from the answers of every width


def softmax(scores):
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def probabilities(kind, answer, length):
    """Turn ``[tokens, labels]`` into lists: of each real token over classes, or of start and end over real tokens."""
    rows = answer[:length].tolist()
    return [softmax(row) for row in rows] if kind == "tokens" else [softmax(row) for row in zip(*rows, strict=True)]


def sureness(kind, answer, length):
    best = [max(row) for row in probabilities(kind, answer, length)]
    return sum(best) / len(best) if kind == "tokens" else best[0] * best[1]


@pytest.mark.parametrize(
    ("family", "kind", "blend"), [*((*one, 0.3) for one in MATRIX), *(("bert", kind, 0.0) for kind in KINDS)]
)
def test_unsure_texts_continue_and_their_answers_are_averages(shared, family, kind, blend):
    model = shared(family, kind)
    batch, labels = make_batch(model.encoder.config, LENGTHS), labels_for(kind, LENGTHS)
    narrow, _, full = run(model, batch, widths="all").width_logits
    sure = [sureness(kind, answer, length) for answer, length in zip(narrow, LENGTHS, strict=True)]
    threshold = sum(sorted(sure)[1:3]) / 2
    model.config.policy = {"cost_weight": 9.0, "escalation_threshold": threshold, "blend": blend}
    output = run(model, batch, **labels)
    assert output.first_width_index.tolist() == [0] * 4
    assert output.width_index.tolist() == [FULL if value < threshold else 0 for value in sure]
    for row, length in enumerate(LENGTHS):
        answer = answers(output)[row]
        if sure[row] >= threshold:
            torch.testing.assert_close(answer, narrow[row], atol=1e-5, rtol=1e-4)
            continue
        if blend == 0:
            torch.testing.assert_close(answer, full[row], atol=1e-5, rtol=1e-4)
            continue
        wide, thin = (probabilities(kind, one, length) for one in (full[row], narrow[row]))
        mixed = [[0.7 * p + 0.3 * q for p, q in zip(*pair, strict=True)] for pair in zip(wide, thin, strict=True)]
        found = probabilities(kind, answer, length)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(mixed), atol=1e-5, rtol=1e-4)
        if kind == "spans":
            assert max(answer.argmax(dim=0).tolist()) < length
            assert answer.isfinite().all()
    if kind == "tokens":
        expected = F.cross_entropy(output.logits.flatten(0, 1), labels["labels"].flatten(), ignore_index=-100)
    else:
        expected = F.cross_entropy(output.start_logits[:3], labels["start_positions"][:3]) / 2
        expected += F.cross_entropy(output.end_logits, labels["end_positions"]) / 2
    torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=1e-4)


@each_kind
def test_without_a_mask_all_tokens_are_real(shared, kind):
    model = shared("bert", kind)
    batch = make_batch(model.encoder.config, [6, 6])
    model.config.policy = {"cost_weight": 9.0, "escalation_threshold": 0.9, "blend": 0.3}
    expected, found = run(model, batch), run(model, {"input_ids": batch["input_ids"]})
    torch.testing.assert_close(answers(found), answers(expected))
    assert found.width_index.tolist() == [FULL] * 2


@each_kind
def test_outputs_have_the_documented_shapes(shared, kind):
    model = shared("bert", kind)
    batch, labels = make_batch(model.encoder.config, LENGTHS), labels_for(kind, LENGTHS)
    output = run(model, batch, **labels, widths="all")
    assert type(output) is SharcsOutput
    assert output.width_logits.shape == (len(WIDTHS), 4, 9, KINDS[kind].num_labels)
    if kind == "tokens":
        assert output.logits.shape == (4, 9, 3)
        assert "start_logits" not in output
    else:
        assert output.start_logits.shape == output.end_logits.shape == (4, 9)
        assert "logits" not in output
    as_tuple = run(model, batch, **labels, widths="all", return_dict=False)
    assert all(torch.equal(*pair) for pair in zip(as_tuple, output.to_tuple(), strict=True))
    for policy in ({"cost_weight": 0.0}, {"cost_weight": 9.0, "escalation_threshold": 0.9}):
        model.config.policy = policy
        assert run(model, batch).loss is None
        assert run(model, batch, **dict(list(labels.items())[1:])).loss is None  # of two positions one is no label
        assert run(model, batch, **labels).loss.isfinite()


# What is refused, and by whom


def test_a_family_without_a_head_for_the_task_is_refused(tmp_path):
    assert not is_known("nomic", "spans")
    encoders.save_plain("nomic", tmp_path)
    with pytest.raises(InputError, match=r"nomic_bert: .*transformers has no AutoModelForQuestionAnswering of it"):
        SharcsForQuestionAnswering.from_encoder(tmp_path)


@each_kind
def test_a_model_of_another_task_is_not_loaded_under_a_random_head(shared, tmp_path, kind):
    shared("bert", kind).save_pretrained(tmp_path)
    own = KINDS[kind].routed_class
    others = {SharcsForQuestionAnswering, SharcsForSequenceClassification, SharcsForTokenClassification} - {own}
    for wrong in (*others, AutoModelForSequenceClassification):
        with pytest.raises(InputError, match=f"is a {own.__name__} and no .*load it with sharcs.{own.__name__}"):
            wrong.from_pretrained(tmp_path)

    class Mine(own):
        """A user's own; advice names none of them."""

    assert type(Mine.from_pretrained(tmp_path)) is Mine
    with pytest.raises(InputError, match=r"hubert: .*; use SharcsForAudioClassification$"):
        Mine(SharcsConfig(encoder={"model_type": "hubert"}))


def test_question_answering_has_two_outputs_whatever_a_checkpoint_was_trained_for(tmp_path, bert_path):
    model = SharcsForQuestionAnswering.from_encoder(bert_path, router_layer=1)  # of three classes
    assert (model.config.num_labels, model.encoder.qa_outputs.out_features) == (2, 2)
    with pytest.raises(InputError, match="num_labels 3: question answering has 2"):
        SharcsForQuestionAnswering.from_encoder(bert_path, router_layer=1, num_labels=3)
    with pytest.raises(InputError, match="num_labels 3: question answering has 2"):
        SharcsForQuestionAnswering(SharcsConfig(encoder=config_of("bert", "tokens"), router_layer=1))


@each_kind
def test_what_whole_texts_were_classified_for_plays_no_part(tmp_path, kind):
    """A regression's policy may not escalate, and a checkpoint's body says nothing of its new head."""
    config = encoders.ENCODERS["bert"]()
    config.problem_type = "regression"
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "plain")
    model = KINDS[kind].routed_class.from_encoder(tmp_path / "plain", router_layer=1)
    model.config.policy = {"cost_weight": 0.0, "escalation_threshold": 0.5}
    model.save_pretrained(tmp_path / "model")
    again = KINDS[kind].routed_class.from_pretrained(tmp_path / "model")
    assert again.config.routing_policy.escalates
    assert again.config.problem_type is again.config.encoder.problem_type is None


@each_kind
def test_widths_that_are_none_are_refused(kind):
    model = toy_model(kind)
    with pytest.raises(InputError, match=r"width 0\.5"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long), width=0.5)
    with pytest.raises(InputError, match=r"width 0\.5"):
        model.run_tail(torch.zeros(1, 4, 32), None, 0.5)
