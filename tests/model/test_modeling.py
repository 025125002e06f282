"""The routed classifier against the plain Hugging Face model, sliced dense copies, and inputs run one by one."""

import copy
import re
import threading

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification

from helpers.encoders import (
    ENCODERS,
    FINAL_NORMS,
    NUM_LABELS,
    ROUTER_LAYER,
    SINGLE_PRECISION,
    WIDTHS,
    Size,
    SlicedCopy,
    attention_implementations,
    is_norm,
    load_plain,
    load_routed,
    make_batch,
    plain_layers,
    routed_key,
    row_of,
    save_plain,
)
from sharcs import InputError, SharcsConfig, SharcsForSequenceClassification, SharcsOutput
from sharcs.model.first_run import plain_answer, try_out
from sharcs.model.layer_list import trunk_layers
from sharcs_runtime.policy import flops

NARROW = range(len(WIDTHS) - 1)
# What a norm is called among the parameters.
NORM = re.compile(r"norm|\bln\b", re.IGNORECASE)
LENGTHS = [4, 9, 1, 6]
LABELS = torch.tensor([0, 2, 1, 2])
FAMILY_ATTENTION = [(name, attention) for name in ENCODERS for attention in attention_implementations(name)]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Save every family once, for tests that are parametrised by attention implementation too."""
    folder = tmp_path_factory.mktemp("families")
    return {name: save_plain(name, folder / name) for name in ENCODERS}


@pytest.fixture(scope="module")
def shared_routed(plain_path):
    """Load a model that tests only read."""
    return load_routed(plain_path)


@pytest.fixture
def routed(plain_path):
    return load_routed(plain_path)


@pytest.fixture
def bert(bert_path):
    return load_routed(bert_path)


@torch.no_grad()
def run(model, batch, **kwargs):
    return model(**batch, **kwargs)


def spread_over_widths(model, batch):
    """Shift the router so that the batch's inputs go to different widths, by clear margins."""
    logits = run(model, batch).router_logits
    with torch.no_grad():
        model.tail.router.output.weight.mul_(5)
        model.tail.router.output.bias.copy_(5 * (model.tail.router.output.bias - logits.mean(dim=0)))
    index = run(model, batch).width_index
    assert len(index.unique()) > 1
    return index


# 1. The full width is the plain model


@pytest.mark.parametrize(("name", "attention"), FAMILY_ATTENTION)
def test_full_width_is_the_plain_model_bit_for_bit(paths, tmp_path, name, attention):
    plain = load_plain(paths[name], attn_implementation=attention)
    batch = make_batch(plain.config, LENGTHS)
    expected = run(plain, batch, labels=LABELS)
    routed = load_routed(paths[name], attn_implementation=attention)
    routed.save_pretrained(tmp_path)
    loaded = SharcsForSequenceClassification.from_pretrained(tmp_path, attn_implementation=attention)
    all_full = torch.full((len(LENGTHS),), len(WIDTHS) - 1)
    for model in (routed, loaded):
        for forced in ({"width": 1.0}, {"width_index": all_full}):
            output = run(model, batch, labels=LABELS, **forced)
            assert torch.equal(output.logits, expected.logits)
            assert torch.equal(output.loss, expected.loss)
        ids = {"input_ids": batch["input_ids"]}
        assert torch.equal(run(model, ids, width=1.0).logits, run(plain, ids).logits)
    again = run(load_plain(paths[name], attn_implementation=attention), batch)
    assert torch.equal(again.logits, expected.logits)


@pytest.mark.parametrize("name", ["bert", "electra"])
def test_segments_positions_and_embeddings_reach_the_encoder(paths, name):
    plain, routed = load_plain(paths[name]), load_routed(paths[name])
    batch = make_batch(plain.config, LENGTHS)
    batch["token_type_ids"] = (torch.arange(9) > 2).long().expand(4, -1) * batch["attention_mask"]
    batch["position_ids"] = torch.arange(9).flip(0).expand(4, -1)
    ids = batch.pop("input_ids")
    without = run(plain, {"input_ids": ids, "attention_mask": batch["attention_mask"]}).logits
    expected = run(plain, batch | {"input_ids": ids}).logits
    assert not torch.allclose(expected, without)
    assert torch.equal(run(routed, batch | {"input_ids": ids}, width=1.0).logits, expected)
    embedded = batch | {"inputs_embeds": plain.get_input_embeddings()(ids)}
    assert torch.equal(run(routed, embedded, width=1.0).logits, run(plain, embedded).logits)


def test_wrapping_keeps_the_values_of_every_plain_weight(plain_path):
    wrapped = SharcsForSequenceClassification.from_encoder(
        plain_path, widths=WIDTHS, router_layer=1, weights="shared"
    ).state_dict()
    for key, value in load_plain(plain_path).state_dict().items():
        assert torch.equal(wrapped[routed_key(key)], value)


def test_private_norms_start_as_the_prefix_of_the_pretrained_ones_and_entry_norms_as_plain_ones(plain_path):
    model = SharcsForSequenceClassification.from_encoder(plain_path, widths=WIDTHS, router_layer=1, weights="shared")
    later = plain_layers(load_plain(plain_path))[ROUTER_LAYER:]
    norms = [module for layer in later for module in layer.modules() if is_norm(module)]
    pretrained = [parameter for norm in norms for parameter in norm.parameters()]
    epsilon = getattr(norms[0], "eps", None) or norms[0].variance_epsilon
    for index in NARROW:
        size = Size().narrow(WIDTHS[index]).hidden
        for private, full in zip(model.tail.narrow[index].norms.parameters(), pretrained, strict=True):
            assert torch.equal(private, full[:size])
        entry = model.tail.narrow[index].entry_norm
        assert entry.eps == epsilon
        assert torch.equal(entry.weight, torch.ones(size))
        assert torch.equal(entry.bias, torch.zeros(size))


@pytest.mark.parametrize(
    ("problem_type", "labels", "loss"),
    [
        (None, LABELS, F.cross_entropy),
        (
            "multi_label_classification",
            torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]),
            F.binary_cross_entropy_with_logits,
        ),
        ("regression", torch.arange(12.0).reshape(4, 3), F.mse_loss),
    ],
)
def test_loss_of_every_problem_type_is_the_mean_over_inputs_of_all_widths(bert_path, problem_type, labels, loss):
    model = SharcsForSequenceClassification.from_encoder(
        bert_path, widths=WIDTHS, router_layer=1, weights="shared", problem_type=problem_type
    ).eval()
    batch = make_batch(model.encoder.config, LENGTHS)
    output = run(model, batch, labels=labels, width_index=torch.tensor([0, 2, 1, 0]))
    torch.testing.assert_close(output.loss, loss(output.logits, labels))


# 2. A narrow width is a plain model of the narrow size


@pytest.mark.parametrize(("name", "attention"), FAMILY_ATTENTION)
def test_a_sub_network_is_a_plain_narrow_model_with_sliced_weights(paths, name, attention):
    routed = load_routed(paths[name], attn_implementation=attention)
    batch = make_batch(routed.encoder.config, LENGTHS)
    full = run(routed, batch, width=1.0).logits
    for index in NARROW:
        dense = SlicedCopy(name, paths[name], routed, index, attn_implementation=attention)
        with torch.no_grad():
            expected = dense(**batch, labels=LABELS)
        output = run(routed, batch, labels=LABELS, width=WIDTHS[index])
        torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=1e-6)
        assert not torch.allclose(output.logits, full, atol=1e-3)


@pytest.mark.parametrize("index", NARROW)
def test_the_head_reads_the_first_inputs_only(bert, index):
    seen = []
    bert.tail.register_forward_hook(lambda module, args, output: seen.append(output))
    batch = make_batch(bert.encoder.config, LENGTHS)
    logits = run(bert, batch, width=WIDTHS[index]).logits
    size = Size().narrow(WIDTHS[index]).hidden
    pooler, classifier = bert.encoder.bert.pooler.dense, bert.encoder.classifier
    first = seen[0][:, 0, :size] @ pooler.weight[:, :size].T + pooler.bias
    torch.testing.assert_close(logits, torch.tanh(first) @ classifier.weight.T + classifier.bias, rtol=0, atol=1e-6)
    assert not seen[0][..., size:].any()


# 3. Gradients


@pytest.mark.parametrize("index", NARROW)
def test_gradients_are_those_of_the_sliced_copy_and_zero_behind_the_prefix(family, plain_path, index):
    routed = load_routed(plain_path).double()
    dense = SlicedCopy(family, plain_path, routed, index)
    batch = make_batch(routed.encoder.config, LENGTHS)
    dense(**batch, labels=LABELS).loss.backward()
    routed(**batch, labels=LABELS, width=WIDTHS[index]).loss.backward()
    expected = dense.gradients()
    checked = set()
    for norm, private in [*dense.norm_pairs(routed), (dense.entry, routed.tail.narrow[index].entry_norm)]:
        for own, theirs in zip(private.parameters(), norm.parameters(), strict=True):
            torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-8, atol=1e-10)
            assert own.grad.any()
            checked.add(id(own))
    for key, parameter in routed.named_parameters():
        if id(parameter) in checked:
            continue
        if key in expected:
            torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-8, atol=1e-10)
        else:
            # The shared layers' full-width norms, the other widths' private norms, the router.
            assert parameter.grad is None or not parameter.grad.any(), key
    later = {id(p) for layer in routed.tail.layers for p in layer.parameters()}
    shared = {key for key, parameter in routed.named_parameters() if id(parameter) in later}
    assert {key for key in shared if not NORM.search(key)} <= set(expected)


def test_gradients_agree_with_finite_differences(family, plain_path):
    if family in SINGLE_PRECISION:
        pytest.skip("its differences are rounding; the sliced copy shows its gradients")
    model = load_routed(plain_path).double()
    batch = make_batch(model.encoder.config, LENGTHS)
    widths = torch.tensor([0, 1, 2, 0])

    def loss():
        output = model(**batch, labels=LABELS, width_index=widths)
        return output.loss + output.router_logits.square().mean()

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    step, compared = 1e-6, 0  # small, so that no neuron of the router switches within it
    for parameter in model.parameters():
        if parameter.grad is None or torch.rand((), generator=generator) > 0.2:
            continue
        position = parameter.grad.abs().flatten().argmax()
        with torch.no_grad():
            flat = parameter.view(-1)
            flat[position] += step
            above = loss()
            flat[position] -= 2 * step
            below = loss()
            flat[position] += step
        numeric = (above - below) / (2 * step)
        # Rounding of a loss of about 1 by double precision, over two steps: 1e-16 / 2e-6, and some sums behind it.
        torch.testing.assert_close(parameter.grad.flatten()[position], numeric, rtol=1e-5, atol=1e-8)
        compared += 1
    assert compared > 5


def test_only_the_private_norms_of_the_widths_that_ran_get_gradients(routed):
    batch = make_batch(routed.encoder.config, LENGTHS)
    routed(**batch, labels=LABELS, width_index=torch.tensor([1, 2, 1, 2])).loss.backward()
    idle, ran = ([*part.entry_norm.parameters(), *part.norms.parameters()] for part in routed.tail.narrow)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in idle)
    assert all(parameter.grad.any() for parameter in ran)


def test_router_logits_train_the_router_and_the_layers_before_it_only(routed):
    batch = make_batch(routed.encoder.config, LENGTHS)
    routed(**batch, width=0.25).router_logits.square().sum().backward()
    below = [parameter for layer in trunk_layers(routed.encoder) for parameter in layer.parameters()]
    has_to = {id(parameter) for parameter in [*routed.tail.router.parameters(), *below]}
    above = [parameter for layer in routed.tail.layers for parameter in layer.parameters()]
    added = [*routed.router.parameters(), *routed.subnetworks.parameters()]
    may_not = {id(parameter) for parameter in [*added, *above]} - has_to
    assert len(may_not) > 8 or len(trunk_layers(routed.encoder)[0].albert_layers) == 1
    for key, parameter in routed.named_parameters():
        has = parameter.grad is not None and bool(parameter.grad.any())
        if id(parameter) in has_to:
            # A bias added to all keys alike leaves the attention as it is.
            assert has or re.search(r"(key|\.k|k_lin|k_proj|key_proj)\.bias", key), key
        elif id(parameter) in may_not:
            assert not has, key


def test_the_task_loss_trains_the_layers_before_the_router_and_not_the_router(routed):
    batch = make_batch(routed.encoder.config, LENGTHS)
    routed(**batch, labels=LABELS, width=0.25).loss.backward()
    assert all(parameter.grad is None for parameter in routed.tail.router.parameters())
    first = [p for n, p in trunk_layers(routed.encoder)[0].named_parameters() if n.endswith("weight")]
    assert len(first) >= 5
    assert all(parameter.grad.any() for parameter in first)


# 4. A batch is its inputs, one by one


inputs = st.lists(st.tuples(st.integers(1, 10), st.integers(0, len(WIDTHS) - 1)), min_size=1, max_size=5)


@settings(max_examples=8)
@given(inputs=inputs, extra=st.integers(0, 4), seed=st.integers(0, 3))
def test_a_batch_of_any_widths_lengths_and_padding_equals_its_inputs_one_by_one(shared_routed, inputs, extra, seed):
    lengths, widths = zip(*inputs, strict=True)
    batch = make_batch(shared_routed.encoder.config, lengths, max(lengths) + extra, seed)
    output = run(shared_routed, batch, width_index=torch.tensor(widths))
    assert output.width_index.tolist() == list(widths)
    for row, index in enumerate(widths):
        alone = run(shared_routed, row_of(batch, row), width=WIDTHS[index])
        torch.testing.assert_close(output.logits[row], alone.logits[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(output.router_logits[row], alone.router_logits[0], rtol=0, atol=1e-5)
        assert alone.width_index.tolist() == [index]


@pytest.mark.parametrize("index", range(len(WIDTHS)))
def test_a_batch_of_one_width_equals_its_inputs_one_by_one(shared_routed, index):
    batch = make_batch(shared_routed.encoder.config, LENGTHS)
    by_width = run(shared_routed, batch, width=WIDTHS[index])
    by_index = run(shared_routed, batch, width_index=torch.full((4,), index))
    assert torch.equal(by_width.logits, by_index.logits)
    assert by_width.width_index.tolist() == by_index.width_index.tolist() == [index] * 4
    for row in range(4):
        alone = run(shared_routed, row_of(batch, row), width_index=torch.tensor([index]))
        torch.testing.assert_close(by_width.logits[row], alone.logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("columns", [9, 10, 15, 30])
def test_more_padding_changes_nothing(shared_routed, columns):
    widths = torch.tensor([0, 1, 2, 0])
    batch = make_batch(shared_routed.encoder.config, LENGTHS)
    padded = make_batch(shared_routed.encoder.config, LENGTHS, columns)
    expected, output = (run(shared_routed, b, width_index=widths) for b in (batch, padded))
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.router_logits, expected.router_logits, rtol=0, atol=1e-5)


def test_without_attention_mask_all_tokens_are_real(shared_routed):
    batch = make_batch(shared_routed.encoder.config, [6, 6, 6])
    widths = torch.tensor([2, 0, 1])
    expected = run(shared_routed, batch, width_index=widths)
    output = run(shared_routed, {"input_ids": batch["input_ids"]}, width_index=widths)
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.router_logits, expected.router_logits, rtol=0, atol=1e-5)
    for row, index in enumerate(widths.tolist()):
        alone = run(shared_routed, {"input_ids": batch["input_ids"][row : row + 1]}, width=WIDTHS[index])
        torch.testing.assert_close(output.logits[row], alone.logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cost_weight", [0.0, 0.3])
def test_a_batch_is_routed_like_its_inputs_one_by_one(routed, cost_weight):
    lengths = [3, 10, 1, 7, 7, 5, 2, 9]
    batch = make_batch(routed.encoder.config, lengths)
    spread_over_widths(routed, batch)
    routed.config.policy = {"cost_weight": cost_weight}
    output = run(routed, batch)
    assert len(output.width_index.unique()) > 1
    forced = run(routed, batch, width_index=output.width_index)
    assert torch.equal(output.logits, forced.logits)
    for row in range(len(lengths)):
        alone = run(routed, row_of(batch, row))
        assert alone.width_index[0] == output.width_index[row]
        torch.testing.assert_close(output.logits[row], alone.logits[0], rtol=0, atol=1e-5)


def test_the_router_sees_the_mean_of_the_real_tokens_of_the_router_layer(family, plain_path, routed):
    plain = load_plain(plain_path)
    batch = make_batch(plain.config, LENGTHS)
    hidden = run(plain, batch, output_hidden_states=True).hidden_states[ROUTER_LAYER]
    router = routed.tail.router
    for row, length in enumerate(LENGTHS):
        pooled = hidden[row, :length].mean(dim=0)
        expected = router.output(router.hidden(pooled).relu())
        actual = run(routed, batch).router_logits[row]
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


# 5. Files, copies, threads


def test_a_checkpoint_has_each_weight_once_and_no_twins(family, plain_path, tmp_path):
    model = load_routed(plain_path)
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    plain = load_plain(plain_path).state_dict()
    saved = SharcsForSequenceClassification.from_pretrained(tmp_path).state_dict()
    added = set(saved) - {routed_key(key) for key in plain}
    assert set(saved) - added == {routed_key(key) for key in plain}
    sizes = [Size().narrow(WIDTHS[index]).hidden for index in NARROW]
    plain_model = load_plain(plain_path)
    pretrained = [m for layer in plain_layers(plain_model)[ROUTER_LAYER:] for m in layer.modules() if is_norm(m)]
    if family in FINAL_NORMS:
        pretrained.append(plain_model.base_model.get_submodule(FINAL_NORMS[family]))
    norms = sum(size * (2 + len([p for norm in pretrained for p in norm.parameters()])) for size in sizes)
    router = 32 * 1024 + 1024 + 1024 * len(WIDTHS) + len(WIDTHS)
    assert sum(saved[key].numel() for key in added) == norms + router
    for key in added:
        parts = key.split(".")
        names = {"width-25", "width-50"}  # of the sub-networks
        assert all(part in names or part.isidentifier() or int(part) < Size().layers for part in parts)
        assert not re.search(r"twin|_5", key)


def test_a_loaded_model_gives_equal_outputs(plain_path, routed, tmp_path):
    routed.save_pretrained(tmp_path)
    batch = make_batch(routed.encoder.config, LENGTHS)
    expected = run(routed, batch, width_index=torch.tensor([0, 1, 2, 0]))
    assert type(AutoConfig.from_pretrained(tmp_path)) is SharcsConfig
    for auto in (SharcsForSequenceClassification, AutoModelForSequenceClassification):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is SharcsForSequenceClassification
        output = run(loaded, batch, width_index=torch.tensor([0, 1, 2, 0]))
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.router_logits, expected.router_logits)
        assert loaded.state_dict().keys() == routed.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loading_in_half_precision_equals_converting(routed, tmp_path, dtype):
    routed.config.policy = {"cost_weight": 0.2}
    routed.save_pretrained(tmp_path)
    loaded = SharcsForSequenceClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    batch = make_batch(routed.encoder.config, LENGTHS)
    exact = run(routed, batch, width_index=torch.tensor([0, 1, 2, 0])).logits
    output = run(loaded, batch, width_index=torch.tensor([0, 1, 2, 0])).logits
    torch.testing.assert_close(output.float(), exact, rtol=0.1, atol=0.1)
    converted = routed
    for parameter in routed.parameters():  # not the frequencies of rotary embeddings, which loading leaves alone
        parameter.data = parameter.data.to(dtype)
    assert torch.equal(output, run(converted, batch, width_index=torch.tensor([0, 1, 2, 0])).logits)
    assert torch.equal(run(loaded, batch).width_index, run(converted, batch).width_index)


@pytest.mark.parametrize("how", ["asked for", "as stored"])
def test_wrapping_in_half_precision_converts_what_is_added_too(bert_path, tmp_path, how):
    load_plain(bert_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    path, dtype = (bert_path, {"dtype": torch.bfloat16}) if how == "asked for" else (tmp_path, {})
    model = SharcsForSequenceClassification.from_encoder(path, router_layer=1, weights="shared", **dtype).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert run(model, make_batch(model.encoder.config, LENGTHS)).logits.isfinite().all()


def test_resized_embeddings_survive_a_file(bert, tmp_path):
    bert.resize_token_embeddings(64, mean_resizing=False)
    bert.save_pretrained(tmp_path)
    loaded = SharcsForSequenceClassification.from_pretrained(tmp_path)
    batch = {"input_ids": torch.tensor([[5, 63, 7]])}
    expected = run(bert, batch, width=0.25).logits
    torch.testing.assert_close(run(loaded, batch, width=0.25).logits, expected, rtol=0, atol=1e-6)


def test_a_deep_copy_is_equal_and_independent(routed):
    batch = make_batch(routed.encoder.config, LENGTHS)
    widths = torch.tensor([0, 1, 2, 0])
    expected = run(routed, batch, width_index=widths).logits
    copied = copy.deepcopy(routed)
    with torch.no_grad():
        for parameter in routed.parameters():
            parameter.add_(1.0)
    assert torch.equal(run(copied, batch, width_index=widths).logits, expected)
    changed = run(routed, batch, width_index=widths).logits
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(run(routed, batch, width_index=widths).logits, changed)


def test_two_threads_may_force_different_widths_on_one_model(bert):
    batch = make_batch(bert.encoder.config, LENGTHS)
    expected = [run(bert, batch, width=width).logits for width in WIDTHS[:2]]
    outputs = [None, None]
    # Neither goes on to the tail before both have begun.
    barrier = threading.Barrier(2, timeout=20)

    def meet(module, args, output):
        barrier.wait()

    hook = bert.encoder.bert.embeddings.register_forward_hook(meet)

    def work(index):
        outputs[index] = run(bert, batch, width=WIDTHS[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.remove()
    for index in range(2):
        assert torch.equal(outputs[index].logits, expected[index])
        assert outputs[index].width_index.tolist() == [index] * 4


# 6. Modes and attention implementations


def is_repeatable(model):
    batch = make_batch(model.encoder.config, LENGTHS)
    return all(torch.equal(*(run(model, batch, width=width).logits for _ in range(2))) for width in WIDTHS)


def test_dropout_follows_the_mode_at_every_width(bert):
    batch = make_batch(bert.encoder.config, LENGTHS)
    assert is_repeatable(bert)
    for module in (bert.tail, bert.subnetworks, bert.tail.layers):
        module.train()  # and not the layers before them, which would add noise of their own
    for width in WIDTHS:
        assert not torch.equal(*(run(bert, batch, width=width).logits for _ in range(2)))
    bert.eval()
    assert is_repeatable(bert)


def test_a_wrapped_or_loaded_model_is_in_evaluation_mode_as_from_pretrained_promises(bert_path, tmp_path):
    model = SharcsForSequenceClassification.from_encoder(bert_path, widths=WIDTHS, router_layer=1, weights="shared")
    model.save_pretrained(tmp_path)
    for given_back in (SharcsForSequenceClassification.from_pretrained(tmp_path), model):
        assert not any(module.training for module in given_back.modules())
        assert is_repeatable(given_back)


def test_switching_attention_reaches_every_width_and_keeps_the_mode(bert_path, bert, monkeypatch):
    fused, calls = F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    batch = make_batch(bert.encoder.config, LENGTHS)
    for attention, count in (("eager", 0), ("sdpa", Size().layers)):
        bert.set_attn_implementation(attention)
        fresh = load_routed(bert_path, attn_implementation=attention)
        for width in WIDTHS:
            calls.clear()
            logits = run(bert, batch, width=width).logits
            assert len(calls) == count
            assert torch.equal(logits, run(fresh, batch, width=width).logits)


# 7. Policy and arguments


@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("cost_weight", [-0.7, 0.05, 0.3, 1.0])
def test_the_policy_weighs_each_inputs_cost_at_its_own_length(bert, cost_weight, with_mask):
    lengths = [1, 30, 3, 12, 25, 2, 30, 8]
    batch = make_batch(bert.encoder.config, lengths)
    if not with_mask:
        batch, lengths = {"input_ids": batch["input_ids"]}, [30] * 8
    spread_over_widths(bert, batch)
    logits = run(bert, batch).router_logits
    bert.config.policy = {"cost_weight": cost_weight}
    expected = []
    for row, length in enumerate(lengths):
        cost = flops(bert.cost_coefficients(), torch.tensor([length]))[0].tolist()
        score = [float(torch.sigmoid(logits[row, i])) - cost_weight * cost[i] / cost[-1] for i in range(len(WIDTHS))]
        expected.append(score.index(max(score)))
    assert run(bert, batch).width_index.tolist() == expected


@pytest.mark.parametrize("how", ["padded together", "one by one without mask"])
def test_a_routing_that_turns_on_the_length_uses_the_real_length(bert, how):
    """Two inputs of equal scores and unequal lengths: a weight between their break-even points parts them."""
    lengths = [3, 30]
    with torch.no_grad():
        bert.tail.router.output.weight.zero_()
        bert.tail.router.output.bias.copy_(torch.tensor([-1.0, -9.0, 1.0]))
    cost = flops(bert.cost_coefficients(), torch.tensor(lengths))
    saved = (cost[:, 2] - cost[:, 0]) / cost[:, 3]
    gain = float(torch.sigmoid(torch.tensor(1.0)) - torch.sigmoid(torch.tensor(-1.0)))
    bert.config.policy = {"cost_weight": gain / float(saved.mean())}
    expected = [0 if float(saving) > float(saved.mean()) else 2 for saving in saved]
    assert sorted(expected) == [0, 2]
    batch = make_batch(bert.encoder.config, lengths)
    if how == "padded together":
        chosen = run(bert, batch).width_index.tolist()
    else:
        rows = (row_of(batch, row)["input_ids"] for row in range(2))
        chosen = [int(run(bert, {"input_ids": ids}).width_index) for ids in rows]
    assert chosen == expected


def test_without_cost_weight_the_routers_argmax_names_the_width(routed):
    batch = make_batch(routed.encoder.config, [3, 10, 1, 7, 7, 5, 2, 9])
    spread_over_widths(routed, batch)
    output = run(routed, batch)
    assert output.width_index.tolist() == [
        max(range(3), key=row.__getitem__) for row in output.router_logits.tolist()
    ]


@pytest.mark.parametrize(("cost_weight", "index"), [(1e4, 0), (-1e4, 2)])
def test_an_extreme_cost_weight_gives_the_cheapest_or_the_full_width(routed, cost_weight, index):
    routed.config.policy = {"cost_weight": cost_weight}
    assert run(routed, make_batch(routed.encoder.config, LENGTHS)).width_index.tolist() == [index] * 4


def test_output_has_the_documented_shapes(routed):
    output = run(routed, make_batch(routed.encoder.config, LENGTHS), labels=LABELS)
    assert type(output) is SharcsOutput
    assert (output.loss.shape, output.logits.shape) == ((), (4, NUM_LABELS))
    assert (output.router_logits.shape, output.width_index.shape) == ((4, len(WIDTHS)), (4,))
    assert output.width_index.dtype == torch.int64
    as_tuple = run(routed, make_batch(routed.encoder.config, LENGTHS), labels=LABELS, return_dict=False)
    assert all(torch.equal(*pair) for pair in zip(as_tuple, output.to_tuple(), strict=True))


def test_an_unknown_width_is_refused(bert):
    with pytest.raises(InputError, match=r"width 0\.3.*0\.25, 0\.5, 1"):
        run(bert, make_batch(bert.encoder.config, LENGTHS), width=0.3)


@pytest.mark.parametrize("index", [[0, 1, 3, 0], [3, 3, 3, 3], [0, -1, 0, 0], [0, 1]])
def test_a_width_index_out_of_range_or_of_the_wrong_length_is_refused(bert, index):
    with pytest.raises(InputError, match="width_index"):
        run(bert, make_batch(bert.encoder.config, LENGTHS), width_index=torch.tensor(index))


@pytest.mark.parametrize("what", ["output_hidden_states", "output_attentions"])
def test_hidden_states_and_attentions_are_refused(bert, what):
    with pytest.raises(InputError, match=what):
        run(bert, make_batch(bert.encoder.config, LENGTHS), **{what: True})


def test_a_row_of_padding_gives_no_nan_and_leaves_the_others_alone(plain_path, shared_routed):
    batch = make_batch(shared_routed.encoder.config, [4, 9, 6])
    widths = torch.tensor([0, 1, 2])
    expected = run(shared_routed, batch, width_index=widths)
    batch["attention_mask"][1] = 0
    output = run(shared_routed, batch, width_index=widths)
    if run(load_plain(plain_path), batch).logits.isfinite().all():  # of a mean over no token, some make NaN
        assert output.router_logits.isfinite().all()
        assert output.logits.isfinite().all()
    torch.testing.assert_close(output.logits[[0, 2]], expected.logits[[0, 2]], rtol=0, atol=1e-5)


# 8. What can't be wrapped

UNSUPPORTED = {
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 3},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4},
    "xlnet": {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48},
    "albert": {"inner_group_num": 2},
    "deberta": {},
    "llama": {},
    "roberta-prelayernorm": {},
    "opt": {"ffn_dim": 48},
    # Their layers can be narrowed; what stands between them is found by the first run.
    "big_bird": {},
    "markuplm": {},
    "layoutlmv3": {},
    "canine": {},
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_architecture_that_cant_be_narrowed_is_refused_by_name(tmp_path, name):
    common = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
    }
    own = UNSUPPORTED[name]
    config = AutoConfig.for_model(name, vocab_size=40, pad_token_id=0, **({} if "n_head" in own else common) | own)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=name):
        SharcsForSequenceClassification.from_encoder(tmp_path, router_layer=1)


def test_the_first_run_compares_full_width_with_the_plain_encoder(bert_path):
    plain = load_plain(bert_path)
    inputs = make_batch(plain.config, [6])
    expected = plain_answer(plain, inputs, SharcsForSequenceClassification.answer_of)
    assert torch.equal(expected, run(plain, inputs).logits)
    model = load_routed(bert_path)
    try_out(model, inputs, expected)
    with pytest.raises(InputError, match=r"bert.*something else once they are routed"):
        try_out(model, inputs, expected + 1e-6)


def test_the_first_run_finds_code_that_inputs_miss_which_continue(bert_path):
    model = load_routed(bert_path)
    inputs = make_batch(model.encoder.config, [6])
    expected = plain_answer(load_plain(bert_path), inputs, model.answer_of)
    ran = []
    model.encoder.register_forward_pre_hook(lambda *_: ran.clear())
    model.encoder.bert.encoder.layer[0].register_forward_hook(lambda *_: ran.append(1))
    skip = {"first": True}

    def add(module, args):
        return (args[0] + 1,) if ran and not skip["first"] else None

    model.encoder.bert.pooler.register_forward_pre_hook(add)
    try_out(model, inputs, expected)
    skip["first"] = False
    with pytest.raises(InputError, match=r"bert.*continue from layer k would miss"):
        try_out(model, inputs, run(model, inputs, width=1.0).logits)


def test_an_encoder_with_two_lists_of_layers_is_refused(bert_path):
    plain = load_plain(bert_path)
    plain.bert.others = copy.deepcopy(plain.bert.encoder.layer)
    config = SharcsConfig(encoder=plain.config, router_layer=1)
    with pytest.raises(InputError, match=r"bert.* 2 lists"):
        SharcsForSequenceClassification(config, encoder=plain)


def test_a_routed_checkpoint_is_not_wrapped_again(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="from_pretrained"):
        SharcsForSequenceClassification.from_encoder(tmp_path)


def test_a_plain_checkpoint_is_not_taken_for_a_routed_one(bert_path):
    with pytest.raises(InputError, match="from_encoder"):
        SharcsForSequenceClassification.from_pretrained(bert_path)


def test_hub_options_apply_to_the_configuration_too(bert_path, tmp_path):
    load_plain(bert_path).save_pretrained(tmp_path / "inner")
    model = SharcsForSequenceClassification.from_encoder(tmp_path, router_layer=1, subfolder="inner").eval()
    batch = make_batch(model.encoder.config, LENGTHS)
    assert torch.equal(run(model, batch, width=1.0).logits, run(load_plain(bert_path), batch).logits)


def test_settings_that_dont_fit_are_refused_before_weights_are_read(bert_path, monkeypatch):
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", None)
    with pytest.raises(InputError, match="router_layer 3"):
        SharcsForSequenceClassification.from_encoder(bert_path, router_layer=3)
