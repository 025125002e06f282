"""Escalation and the pass over all widths, against inputs run one by one and the FLOP counter."""

import json

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from helpers.encoders import NUM_LABELS, WIDTHS, load_plain, load_routed, make_batch, row_of
from helpers.toys import below_threshold
from sharcs import InputError, SharcsConfig, SharcsForSequenceClassification
from sharcs.config import RoutingPolicy
from sharcs.model.layer_list import trunk_layers
from sharcs_runtime.policy import flops
from sharcs_runtime.scores import blended, confidence

LENGTHS = [4, 9, 1, 6, 12]
LABELS = torch.tensor([0, 2, 1, 2, 0])
FULL = len(WIDTHS) - 1


@pytest.fixture(scope="module")
def shared(plain_path):
    """Load a model that tests only read, with uneven answers."""
    return load_routed(plain_path)


def with_policy(model, **policy):
    model.config.policy = policy
    return model


def brute_force(model, batch, threshold, cost_weight=0.0):
    """Run each input alone at the width that the router names, and again at full width if that one is unsure."""
    answers, first, last = [], [], []
    for number in range(len(LENGTHS)):
        alone = row_of(batch, number)
        model.config.policy = {"cost_weight": cost_weight}
        output = model(**alone)
        index = int(output.width_index[0])
        sure = float(output.logits.softmax(-1).max())
        first.append(index)
        if index < FULL and sure < threshold:
            output, index = model(**alone, width=1.0), FULL
        answers.append(output.logits[0])
        last.append(index)
    return torch.stack(answers), first, last


@torch.no_grad()
def test_all_widths_equal_one_pass_for_each(shared):
    batch = make_batch(shared.config.encoder, LENGTHS)
    every = shared(**batch, labels=LABELS, widths="all")
    assert every.width_logits.shape == (len(WIDTHS), len(LENGTHS), NUM_LABELS)
    for index, width in enumerate(WIDTHS):
        torch.testing.assert_close(every.width_logits[index], shared(**batch, width=width).logits, atol=1e-6, rtol=0)
    full = shared(**batch, labels=LABELS, width=1.0)
    assert torch.equal(every.logits, full.logits)
    assert torch.equal(every.loss, full.loss)
    assert torch.equal(every.router_logits, full.router_logits)
    assert every.width_index.tolist() == [FULL] * len(LENGTHS)


@torch.no_grad()
def test_all_widths_run_layers_below_the_router_once(shared):
    calls = []
    (below,) = trunk_layers(shared.encoder)
    repeated = len({below, *shared.tail.layers}) == 1  # then it runs at full width behind the router, too
    with below.register_forward_hook(lambda *_: calls.append(1)):
        shared(**make_batch(shared.config.encoder, LENGTHS), widths="all")
    assert len(calls) == (1 + len(shared.tail.layers) if repeated else 1)


def test_gradients_of_all_widths_reach_layers_below_the_router(plain_path):
    model = load_routed(plain_path)
    batch = make_batch(model.config.encoder, LENGTHS)
    (below,) = trunk_layers(model.encoder)
    parameter = next(p for n, p in below.named_parameters() if n.endswith("weight"))
    model(**batch, widths="all").width_logits[0].sum().backward()
    together = parameter.grad.clone()
    model.zero_grad()
    model(**batch, width=WIDTHS[0]).logits.sum().backward()
    assert together.abs().sum() > 0
    torch.testing.assert_close(together, parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_escalated_batch_equals_inputs_run_one_by_one(shared, quantile):
    batch = make_batch(shared.config.encoder, LENGTHS)
    narrow = shared(**batch, width_index=torch.tensor([0, 1, 2, 0, 1])).logits.softmax(-1).amax(-1)
    # Between two confidences, so that rounding decides nothing.
    ordered = narrow.sort().values.tolist()
    threshold = {0.0: 0.0, 0.5: sum(ordered[1:3]) / 2, 1.0: 1.0}[quantile]
    expected, first, last = brute_force(shared, batch, threshold)
    output = with_policy(shared, cost_weight=0.0, escalation_threshold=threshold)(**batch, labels=LABELS)
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-4)
    assert output.first_width_index.tolist() == first
    assert output.width_index.tolist() == last
    torch.testing.assert_close(output.loss, F.cross_entropy(expected, LABELS), atol=1e-5, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(threshold=st.floats(0, 1, width=16), cost_weight=st.sampled_from([-3.0, 0.0, 0.5, 3.0]))
@torch.no_grad()
def test_any_threshold_and_cost_weight(bert, threshold, cost_weight):
    batch = make_batch(bert.config.encoder, LENGTHS)
    expected, first, last = brute_force(bert, batch, threshold, cost_weight)
    output = with_policy(bert, cost_weight=cost_weight, escalation_threshold=threshold)(**batch)
    assert output.first_width_index.tolist() == first
    assert output.width_index.tolist() == last
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def bert(bert_path):
    return load_routed(bert_path)


@torch.no_grad()
def test_forced_widths_do_not_escalate(bert):
    batch = make_batch(bert.config.encoder, LENGTHS)
    with_policy(bert, cost_weight=0.0, escalation_threshold=1.0)
    assert bert(**batch, width=WIDTHS[0]).width_index.tolist() == [0] * len(LENGTHS)
    forced = bert(**batch, width_index=torch.tensor([0, 1, 2, 0, 1]))
    assert forced.width_index.tolist() == [0, 1, 2, 0, 1]
    assert forced.first_width_index is None


@torch.no_grad()
def test_without_a_mask_and_with_embeddings_as_inputs(bert):
    ids = make_batch(bert.config.encoder, [7, 7])["input_ids"]
    with_policy(bert, cost_weight=9.0, escalation_threshold=1.0)
    full = bert(input_ids=ids, width=1.0).logits
    torch.testing.assert_close(bert(input_ids=ids).logits, full, atol=1e-5, rtol=1e-4)
    embeddings = bert.get_input_embeddings()(ids)
    torch.testing.assert_close(bert(inputs_embeds=embeddings).logits, full, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 7, 30])
def test_cost_of_escalation_is_what_the_flop_counter_counts(plain_path, length):
    routed = load_routed(plain_path, attn_implementation="eager")
    plain = load_plain(plain_path, attn_implementation="eager")
    batch = make_batch(plain.config, [length])
    # λ = 0, since the counter sees the policy's own few products.
    with_policy(routed, cost_weight=0.0, escalation_threshold=1.0).tail.router.output.bias.data[0] = 100
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = routed(**batch)
    assert (output.first_width_index.tolist(), output.width_index.tolist()) == ([0], [FULL])
    coefficients = torch.stack([routed.cost_coefficients()[0], routed.continuation_coefficients()])
    assert flops(coefficients, torch.tensor([length])).sum() == counter.get_total_flops()


def test_confidence_of_each_task():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    exponentials = [torch.exp(torch.tensor(x)).item() for x in (2.0, 0.0, -1.0)]
    assert confidence(logits).item() == pytest.approx(exponentials[0] / sum(exponentials))
    # The least sure of the labels is the one at zero, which is undecided.
    assert confidence(logits, "multi_label_classification").item() == pytest.approx(0.5)


@pytest.mark.parametrize("blend", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_answers_that_went_on_are_averages_of_both_networks(shared, blend):
    batch = make_batch(shared.config.encoder, LENGTHS)
    narrow, full = (shared(**batch, width=width).logits.softmax(-1) for width in (WIDTHS[0], 1.0))
    ordered = narrow.amax(-1).sort().values.tolist()
    threshold = sum(ordered[2:4]) / 2
    policy = {"cost_weight": 9.0, "escalation_threshold": threshold, "blend": blend}
    output = with_policy(shared, **policy)(**batch, labels=LABELS)
    went_on = output.first_width_index != output.width_index
    assert went_on.sum() == 3
    expected = torch.where((narrow.amax(-1) < threshold)[:, None], (1 - blend) * full + blend * narrow, narrow)
    torch.testing.assert_close(output.logits.softmax(-1), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.loss, F.nll_loss(expected.log(), LABELS), atol=1e-5, rtol=1e-4)
    direct = with_policy(shared, **policy | {"cost_weight": -9.0})(**batch)
    torch.testing.assert_close(direct.logits.softmax(-1), full, atol=1e-5, rtol=1e-4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=5), st.floats(0, 1))
def test_blended_answers_of_several_labels_average_each_labels_probability(pairs, blend):
    full, narrow = torch.tensor(pairs, dtype=torch.float64).T
    found = blended(full, narrow, blend, "multi_label_classification").sigmoid()
    expected = (1 - blend) * full.sigmoid() + blend * narrow.sigmoid()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    found = blended(full, narrow, blend).softmax(-1)
    torch.testing.assert_close(
        found, (1 - blend) * full.softmax(-1) + blend * narrow.softmax(-1), atol=1e-4, rtol=1e-3
    )


def test_without_a_blend_nothing_is_rounded():
    full = torch.randn(3, 4)
    assert blended(full, torch.randn(3, 4), 0.0) is full


@pytest.mark.parametrize("blend", [-0.1, 1.5, "half", True, float("nan")])
def test_blends_that_are_none_are_refused(bert, blend):
    with pytest.raises(InputError, match="from 0 to 1"):
        SharcsConfig(encoder=bert.config.encoder, policy={"blend": blend})


def test_a_confidence_at_the_threshold_stands():
    found = below_threshold(
        torch.tensor([0.5, 0.4, 0.4]), torch.tensor([0, 0, 1]), RoutingPolicy(0.0, 0.5), ["narrow", "full"]
    )
    assert found.tolist() == [False, True, False]


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "high", True, float("nan")])
def test_thresholds_that_are_none_are_refused(bert, threshold):
    with pytest.raises(InputError, match="escalation_threshold"):
        SharcsConfig(encoder=bert.config.encoder, policy={"cost_weight": 0.0, "escalation_threshold": threshold})


def test_a_regression_can_not_escalate(bert):
    with pytest.raises(InputError, match="regression has no confidence"):
        SharcsConfig(
            encoder=bert.config.encoder,
            num_labels=1,
            problem_type="regression",
            policy={"cost_weight": 0.0, "escalation_threshold": 0.5},
        )


def test_the_policy_travels_with_the_model(bert_path, tmp_path):
    model = with_policy(load_routed(bert_path), cost_weight=0.5, escalation_threshold=0.75)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["policy"]["escalation_threshold"] == 0.75
    again = SharcsForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.routing_policy == RoutingPolicy(0.5, 0.75)
    batch = make_batch(model.config.encoder, LENGTHS)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
