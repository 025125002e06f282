"""Routed classifiers of images and waves: plain models, sliced copies, inputs one by one, the FLOP counter."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from helpers.encoders import NUM_LABELS, WIDTHS, leading_on
from helpers.media import (
    EQUAL_LENGTHS,
    MEDIA,
    STRIDES,
    MediaCopy,
    auto_class,
    frames,
    is_image,
    lengths,
    load_plain,
    load_routed,
    make_batch,
    routed_class,
    row_of,
    save_plain,
)
from helpers.own import own_parameters, with_own_weights
from sharcs import (
    InputError,
    SharcsConfig,
    SharcsForAudioClassification,
    SharcsForImageClassification,
    SharcsForSequenceClassification,
)
from sharcs.model.layer_list import trunk_layers
from sharcs_runtime.policy import flops

NARROW = range(len(WIDTHS) - 1)
FULL = len(WIDTHS) - 1
LABELS = torch.tensor([0, 2, 1, 2])
MIXED = torch.tensor([1, 0, 2, 0])
PADDED = [kind for kind in MEDIA if not is_image(kind) and kind not in EQUAL_LENGTHS]
each_kind = pytest.mark.parametrize("kind", MEDIA)
each_attention = pytest.mark.parametrize("attention", ["eager", "sdpa"])


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Save every plain model once."""
    folder = tmp_path_factory.mktemp("media")
    return {kind: save_plain(kind, folder / kind) for kind in MEDIA}


@pytest.fixture(scope="module")
def shared(paths):
    """Load each kind once, for tests that only read it; attention is eager, which the FLOP counter sees."""
    known = {}

    def get(kind):
        if kind not in known:
            known[kind] = load_routed(kind, paths[kind], attn_implementation="eager")
        known[kind].config.policy = {"cost_weight": 0.0}
        return known[kind]

    return get


def private(model):
    """Give a copy's narrow widths weights of their own, away from where they start."""
    model = copy.deepcopy(model)
    model = with_own_weights(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in own_parameters(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def run(model, batch, **kwargs):
    return model(**batch, **kwargs)


def counted(model, **inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops()


def watch():
    """Make a list and a hook that notes in it what was called."""
    calls = []
    return calls, lambda module, *_: calls.append(type(module).__name__)


def tokens_of(kind, samples=0, side=8):
    """Count the tokens by hand."""
    specials = {"deit": 2, "siglip": 0, "siglip-headless": 0}.get(kind, 1)
    return (side // 2) ** 2 + specials if is_image(kind) else frames(samples)


def without_rest(count):
    """Count samples of which the convolutions leave none over."""
    return next(samples for samples in range(1, 1000) if frames(samples) == count)


# The full width, sub-networks, gradients


@each_attention
@each_kind
def test_full_width_is_the_plain_model_bit_for_bit_before_and_after_saving(paths, tmp_path, kind, attention):
    plain = load_plain(kind, paths[kind], attn_implementation=attention)
    batch = make_batch(kind)
    expected = run(plain, batch, labels=LABELS)
    routed = load_routed(kind, paths[kind], attn_implementation=attention)
    routed.save_pretrained(tmp_path)
    loaded = auto_class(kind).from_pretrained(tmp_path, attn_implementation=attention)
    assert type(loaded) is routed_class(kind)
    for model in (routed, loaded):
        output = run(model, batch, labels=LABELS, width=1.0)
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.loss, expected.loss)
    for width in WIDTHS[:-1]:
        assert torch.equal(run(routed, batch, width=width).logits, run(loaded, batch, width=width).logits)
    own = set(routed.state_dict()) - {f"encoder.{name}" for name in plain.state_dict()}
    assert all(name.startswith(("router.", "subnetworks.")) for name in own)


@each_attention
@each_kind
def test_a_sub_network_is_a_plain_narrow_model_with_sliced_weights(paths, kind, attention):
    routed = load_routed(kind, paths[kind], attn_implementation=attention)
    batch = make_batch(kind)
    full = run(routed, batch, width=1.0).logits
    for index in NARROW:
        dense = MediaCopy(kind, paths[kind], routed, index, attn_implementation=attention)
        expected = run(dense, batch, labels=LABELS)
        output = run(routed, batch, labels=LABELS, width=WIDTHS[index])
        torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=1e-6)
        assert not torch.allclose(output.logits, full, atol=1e-3)


@each_kind
def test_gradients_are_those_of_the_sliced_copy_and_reach_every_shared_weight(paths, shared, kind):
    routed = copy.deepcopy(shared(kind)).double()
    routed.set_attn_implementation("sdpa")  # of the eager ones, some compute in single precision
    batch = {name: value.double() if value.is_floating_point() else value for name, value in make_batch(kind).items()}
    dense = MediaCopy(kind, paths[kind], routed, 0)
    dense(**batch, labels=LABELS).loss.backward()
    routed(**batch, labels=LABELS, width=WIDTHS[0]).loss.backward()
    expected = dense.gradients()
    private_norms = set()
    for norm, own in [*dense.norm_pairs(routed), (dense.entry, routed.tail.narrow[0].entry_norm)]:
        for parameter, theirs in zip(own.parameters(), norm.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, theirs.grad, rtol=1e-8, atol=1e-10)
            private_norms.add(id(parameter))
    for name, parameter in routed.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-8, atol=1e-10)
        elif id(parameter) not in private_norms:
            assert parameter.grad is None or not parameter.grad.any(), name
    shared_weights = {id(p) for layer in routed.tail.layers for n, p in layer.named_parameters() if "norm" not in n}
    for name, parameter in routed.named_parameters():
        if id(parameter) in shared_weights and not name.endswith("k_proj.bias"):  # which no softmax heeds
            assert parameter.grad.any(), name


# Batches


@each_kind
def test_a_mixed_batch_equals_inputs_run_one_by_one(shared, kind):
    batch = make_batch(kind)
    for model in (shared(kind), private(shared(kind))):
        alone = [run(model, row_of(batch, row), width=WIDTHS[index]) for row, index in enumerate(MIXED.tolist())]
        for prepared in (False, True):
            if prepared:
                model = copy.deepcopy(model)
                model.prepare_for_inference()
            found = run(model, batch, width_index=MIXED)
            for name in ("logits", "router_logits"):
                one_by_one = torch.cat([output[name] for output in alone])
                torch.testing.assert_close(found[name], one_by_one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", PADDED)
def test_more_padding_changes_nothing(shared, kind):
    batches = make_batch(kind), make_batch(kind, columns=90)
    short, padded = (run(shared(kind), batch, width_index=MIXED) for batch in batches)
    torch.testing.assert_close(padded.logits, short.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded.router_logits, short.router_logits, atol=1e-5, rtol=1e-4)


@each_kind
def test_the_policy_weighs_each_inputs_own_cost(shared, kind):
    model, batch = shared(kind), make_batch(kind)
    router = run(model, batch).router_logits.sigmoid()
    costs = flops(model.cost_coefficients(), torch.tensor([tokens_of(kind, samples) for samples in lengths(kind)]))
    relative = costs[:, :-1] / costs[:, -1:]
    for weight in (-0.3, 0.02, 0.05, 0.2):
        model.config.policy = {"cost_weight": weight}
        assert run(model, batch).width_index.tolist() == (router - weight * relative).argmax(-1).tolist()


@pytest.mark.parametrize("kind", PADDED)
def test_a_routing_that_turns_on_the_length_counts_real_frames(shared, kind):
    """Two waves of equal scores: a cost weight between their break-even points parts them."""
    model, samples = copy.deepcopy(shared(kind)), [17, 200]
    with torch.no_grad():
        model.tail.router.output.weight.zero_()
        model.tail.router.output.bias.copy_(torch.tensor([-1.0, -9.0, 1.0]))
    cost = flops(model.cost_coefficients(), torch.tensor([frames(count) for count in samples]))
    saved = (cost[:, FULL] - cost[:, 0]) / cost[:, -1]
    gain = torch.tensor(1.0).sigmoid() - torch.tensor(-1.0).sigmoid()
    model.config.policy = {"cost_weight": float(gain / saved.mean())}
    expected = [0 if saving > saved.mean() else FULL for saving in saved]
    assert sorted(expected) == [0, FULL]
    assert run(model, make_batch(kind, samples)).width_index.tolist() == expected
    batch = make_batch(kind, samples)
    waves = [{"input_values": row_of(batch, row)["input_values"]} for row in range(2)]
    assert [int(run(model, wave).width_index) for wave in waves] == expected


# Cost


@pytest.mark.parametrize("own_weights", [False, True])
@each_kind
def test_cost_is_what_the_flop_counter_counts(paths, shared, kind, own_weights):
    plain = load_plain(kind, paths[kind], attn_implementation="eager")
    model = private(shared(kind)) if own_weights else shared(kind)
    for count in (1, 4, 9):
        batch = make_batch(kind, [without_rest(count)])
        tokens = tokens_of(kind, without_rest(count))
        assert model.token_count({name: value[0] for name, value in batch.items()}) == tokens
        cost = flops(model.cost_coefficients(), torch.tensor([tokens]))[0].tolist()
        assert cost == [*(counted(model, **batch, width=width) for width in WIDTHS), counted(plain, **batch)]


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert-stable"])
def test_of_a_waves_cost_less_than_a_frames_convolutions_may_be_missing(shared, kind):
    model = shared(kind)
    frame = flops(model.cost_coefficients(), torch.tensor([4, 5]))[:, -1].diff()
    for samples in range(without_rest(4), without_rest(5)):
        cost = flops(model.cost_coefficients(), torch.tensor([frames(samples)]))[0, FULL]
        missing = counted(model, **make_batch(kind, [samples]), width=1.0) - float(cost)
        assert 0 <= missing < frame
        assert (missing == 0) == (samples < without_rest(4) + STRIDES[0])


@each_kind
def test_cost_of_escalation_is_what_the_flop_counter_counts(shared, kind):
    model = copy.deepcopy(shared(kind))
    model.config.policy = {"cost_weight": 0.0, "escalation_threshold": 1.0}
    model.tail.router.output.bias.data[0] = 100
    tokens = tokens_of(kind, without_rest(5))
    total = counted(model, **make_batch(kind, [without_rest(5)]))
    coefficients = torch.stack([model.cost_coefficients()[0], model.continuation_coefficients()])
    assert flops(coefficients, torch.tensor([tokens])).sum() == total


def test_images_of_another_size_have_tokens_of_their_own(shared):
    model, batch = shared("dinov2"), make_batch("dinov2", [1], side=12)
    assert model.token_count({"pixel_values": batch["pixel_values"][0].tolist()}) == tokens_of("dinov2", side=12)
    cost = flops(model.cost_coefficients(), torch.tensor([tokens_of("dinov2", side=12)]))[0, 0]
    assert cost == counted(model, **batch, width=WIDTHS[0])
    hidden = run(model.run_trunk, batch).hidden
    continued = run(model.run_tail, {"hidden": hidden, "attention_mask": None}, width=WIDTHS[0])
    torch.testing.assert_close(continued, run(model, batch, width=WIDTHS[0]).logits, atol=1e-6, rtol=1e-5)


# Continuing


@each_kind
def test_inputs_that_continue_equal_direct_ones_and_run_nothing_before_the_router(shared, kind):
    batch = make_batch(kind)
    for model in (shared(kind), private(shared(kind))):
        hidden = run(model.run_trunk, batch).hidden
        kept = hidden.clone()
        given = {"hidden": hidden, "attention_mask": batch.get("attention_mask")}
        direct = [run(model, batch, width=width).logits for width in WIDTHS]
        calls, note = watch()
        hooks = [
            module.register_forward_hook(note)
            for module in model.modules()
            if isinstance(module, nn.Conv1d | nn.Conv2d) or module in trunk_layers(model.encoder)
        ]
        continued = [run(model.run_tail, given, width=width) for width in WIDTHS]
        assert calls == []
        assert torch.equal(hidden, kept)
        every = run(model, batch, widths="all")
        assert len(calls) == len(hooks) > 1  # each once, whatever the number of widths
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(torch.stack(continued), torch.stack(direct), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(every.width_logits, torch.stack(direct), atol=1e-6, rtol=1e-5)
        assert torch.equal(every.logits, direct[-1])


@pytest.mark.parametrize("kind", PADDED)
def test_waves_of_two_batches_continue_in_one_that_is_padded_anew(shared, kind):
    model, batch = shared(kind), make_batch(kind)
    alone = [run(model.run_trunk, row_of(batch, row)).hidden for row in range(4)]
    longest = frames(max(lengths(kind)))
    hidden = torch.cat([F.pad(one, (0, 0, 0, longest - one.shape[1]), value=7.0) for one in alone])
    mask = batch["attention_mask"]
    for width in WIDTHS:
        continued = run(model.run_tail, {"hidden": hidden, "attention_mask": mask}, width=width)
        torch.testing.assert_close(continued, run(model, batch, width=width).logits, atol=1e-5, rtol=1e-4)


@each_kind
def test_escalated_batch_equals_inputs_run_one_by_one(shared, kind):
    model, batch = shared(kind), make_batch(kind)
    first = run(model, batch).width_index.tolist()
    narrow = [run(model, row_of(batch, row), width=WIDTHS[index]).logits for row, index in enumerate(first)]
    confidences = [float(logits.softmax(-1).max()) for logits in narrow]
    threshold = sum(sorted(confidences)[1:3]) / 2
    last = [FULL if sure < threshold else index for index, sure in zip(first, confidences, strict=True)]
    expected = torch.cat(
        [run(model, row_of(batch, row), width=WIDTHS[index]).logits for row, index in enumerate(last)]
    )
    model.config.policy = {"cost_weight": 0.0, "escalation_threshold": threshold}
    output = run(model, batch, labels=LABELS)
    assert output.first_width_index.tolist() == first
    assert output.width_index.tolist() == last
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.loss, F.cross_entropy(expected, LABELS), atol=1e-5, rtol=1e-4)


# Weights of their own


@each_kind
def test_private_weights_start_as_parts_are_saved_and_keep_gradients_to_themselves(shared, tmp_path, kind):
    model, batch = copy.deepcopy(shared(kind)), make_batch(kind)
    model = with_own_weights(model)
    full = copy.deepcopy(model)
    with torch.no_grad():
        for weight in (weight for layer in full.tail.layers for weight in leading_on(layer)):
            weight[:, round(WIDTHS[0] * weight.shape[1]) :] = 0
    expected = run(full, batch, width=1.0).logits
    torch.testing.assert_close(run(model, batch, width=WIDTHS[0]).logits, expected, atol=1e-5, rtol=1e-5)
    model = private(model)
    model.save_pretrained(tmp_path)
    again = auto_class(kind).from_pretrained(tmp_path, attn_implementation="eager")
    for width in WIDTHS:
        assert torch.equal(run(model, batch, width=width).logits, run(again, batch, width=width).logits)
    model(**batch, labels=LABELS, width=WIDTHS[0]).loss.backward()
    for name, parameter in model.tail.narrow[0].named_parameters():
        assert name.endswith("k_proj.bias") or parameter.grad.any(), name
    others = [*model.tail.narrow[1].parameters(), *model.tail.layers.parameters()]
    assert all(parameter.grad is None for parameter in others)


# Training mode


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in MEDIA if not is_image(kind)])
def test_no_layer_is_dropped_in_training_and_masked_spans_leave_gradients(paths, tmp_path, kind, loaded):
    assert load_plain(kind, paths[kind]).config.layerdrop == 0.1
    routed = load_routed(kind, paths[kind])
    if loaded:
        routed.save_pretrained(tmp_path)
        routed = auto_class(kind).from_pretrained(tmp_path)
    torch.manual_seed(0)
    routed.train()
    batch = make_batch(kind)
    for _ in range(12):  # of 24 layers and more, one would be dropped
        routed.zero_grad()
        output = routed(**batch, labels=LABELS, widths="all")
        (output.loss + output.width_logits.square().sum()).backward()
        assert all(parameter.grad.any() for part in routed.tail.narrow for parameter in part.norms.parameters())


# What is refused, and by whom


def test_encoders_of_other_inputs_are_refused_with_the_right_class(paths, bert_path, tmp_path):
    with pytest.raises(InputError, match=r"vit: .*SharcsForImageClassification"):
        SharcsForAudioClassification.from_encoder(paths["vit"])
    with pytest.raises(InputError, match=r"hubert: .*SharcsForAudioClassification"):
        SharcsForSequenceClassification.from_encoder(paths["hubert"])
    with pytest.raises(InputError, match=r"bert: .*SharcsForSequenceClassification"):
        SharcsForImageClassification.from_encoder(bert_path)
    load_routed("vit", paths["vit"]).save_pretrained(tmp_path)
    for wrong in (
        SharcsForSequenceClassification,
        AutoModelForAudioClassification,
        AutoModelForSequenceClassification,
    ):
        with pytest.raises(InputError, match=r"vit: .*SharcsForImageClassification"):
            wrong.from_pretrained(tmp_path)


def test_a_head_that_reads_every_layer_is_refused(tmp_path):
    config = MEDIA["hubert"]()
    config.use_weighted_layer_sum = True
    AutoModelForAudioClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="use_weighted_layer_sum"):
        SharcsForAudioClassification.from_encoder(tmp_path)


def test_a_plain_checkpoint_is_not_taken_for_a_routed_one(paths):
    with pytest.raises(InputError, match=r"vit model.* from_encoder"):
        SharcsForImageClassification.from_pretrained(paths["vit"])


@pytest.mark.parametrize("kind", ["clip", "wav2vec2-stable"])
def test_a_deep_copy_has_weights_of_its_own(paths, kind):
    model, batch = load_routed(kind, paths[kind]), make_batch(kind)
    expected = run(model, batch, width_index=MIXED).logits
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    assert torch.equal(run(copied, batch, width_index=MIXED).logits, expected)


def test_a_wave_has_no_loss_of_several_labels(shared):
    model = copy.deepcopy(shared("hubert"))
    model.config.problem_type = "multi_label_classification"
    assert run(model, make_batch("hubert")).logits.isfinite().all()
    with pytest.raises(InputError, match="a loss for one class alone"):
        run(model, make_batch("hubert"), labels=torch.ones(4, NUM_LABELS))


def test_a_configuration_alone_makes_a_network(shared):
    for kind in ("deit", "clip", "wav2vec2"):
        config = SharcsConfig(encoder=MEDIA[kind](), widths=WIDTHS, router_layer=1)
        config.encoder.architectures = None
        model = auto_class(kind).from_config(config).eval()
        assert type(model) is routed_class(kind)
        assert run(model, make_batch(kind)).logits.shape == (4, NUM_LABELS)
    assert AutoModelForImageClassification is auto_class("deit")


@each_kind
def test_attention_is_switched_at_every_width(shared, kind):
    model, batch = copy.deepcopy(shared(kind)), make_batch(kind)
    expected = [run(model, batch, width=width).logits for width in WIDTHS]
    seen = []
    fused = F.scaled_dot_product_attention
    model.set_attn_implementation("sdpa")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: seen.append(1) or fused(*a, **k))
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", F.scaled_dot_product_attention)
        for width, logits in zip(WIDTHS, expected, strict=True):
            seen.clear()
            torch.testing.assert_close(run(model, batch, width=width).logits, logits, atol=1e-5, rtol=1e-4)
            assert len(seen) >= 3
