"""Sub-networks with weights of their own: explicit slices, the full network with units off, the FLOP counter."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.encoders import WIDTHS, attention_implementations, leading_on, load_plain, make_batch, row_of
from helpers.own import own_parameters, with_own_weights
from helpers.tiny import CONFIGS, HEADS, HIDDEN, NEURONS, tiny_model, toy_rows, trainer_for
from sharcs import SharcsForSequenceClassification
from sharcs.errors import EncoderError, InputError
from sharcs.model.first_run import try_out_own
from sharcs.training.importance import Importance
from sharcs_runtime.policy import flops
from training.test_importance import NAMES

LENGTHS = [4, 9, 1, 6]
PLUS = {"recipe": "sharcs+", "num_train_epochs": 1, "subnetwork_epochs": 1}
NARROW = range(len(WIDTHS) - 1)
each_kind = pytest.mark.parametrize("kind", sorted(CONFIGS))


def private(path, shaken=True, **options):
    """Wrap a plain classifier, with weights of its own for every narrow width; far from their start if shaken."""
    model = SharcsForSequenceClassification.from_encoder(path, widths=WIDTHS, router_layer=1, **options)
    if shaken:
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in own_parameters(model):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def random_importance(layers):
    torch.manual_seed(7)
    return Importance([torch.rand(HEADS) for _ in range(layers)], [torch.rand(NEURONS) for _ in range(layers)])


def best(scores, width):
    """Name the most important, one by one."""
    left, found = dict(enumerate(scores.tolist())), []
    for _ in range(round(width * len(scores))):
        found.append(max(left, key=left.get))
        del left[found[-1]]
    return found


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("index", NARROW)
@torch.no_grad()
def test_they_start_as_the_full_network_without_the_other_heads_and_neurons(plain_path, index, ranked):
    model = private(plain_path, shaken=False)
    layers, width = list(model.tail.layers), WIDTHS[index]
    importance = random_importance(len(layers))
    if ranked:
        model.tail.narrow[index].fill(layers, importance.orders())
    full = copy.deepcopy(model)
    # Each a layer of its own: some encoders run one several times.
    full.subnetworks["full"]._layers = (nn.ModuleList(copy.deepcopy(layer) for layer in layers),)
    for layer, heads, neurons in zip(full.tail.layers, importance.heads, importance.neurons, strict=True):
        for weight, scores in zip(leading_on(layer), (heads, neurons), strict=True):
            kept = best(scores, width) if ranked else range(round(width * len(scores)))
            others = [unit for unit in range(len(scores)) if unit not in kept]
            weight.unflatten(1, (len(scores), -1))[:, others] = 0
    batch = make_batch(model.config.encoder, LENGTHS)
    expected = full(**batch, width=1.0).logits
    torch.testing.assert_close(model(**batch, width=width).logits, expected, atol=1e-5, rtol=1e-5)
    assert (model(**batch, width=1.0).logits - expected).abs().max() > 1e-3


@each_kind
def test_they_are_cut_out_of_the_full_network_by_importance(kind):
    model = tiny_model(kind, layers=4, router_layer=2, widths=(0.5, 1.0))
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if "norm" in name.lower():
                parameter.add_(0.3 * torch.randn_like(parameter))
    model = with_own_weights(model)
    scores = random_importance(2)
    own = model.tail.narrow[0]
    own.fill(list(model.tail.layers), scores.orders())
    hidden, size = range(HIDDEN), HIDDEN // HEADS
    for position, (full, narrow) in enumerate(zip(model.tail.layers, own.layers, strict=True)):
        heads = best(scores.heads[position], 0.5)
        assert own.kept_heads[position].tolist() == heads
        rows = [head * size + offset for head in heads for offset in range(size)]
        neurons = best(scores.neurons[position], 0.5)
        places = [(rows, hidden)] * 3 + [(hidden, rows), (neurons, hidden), (hidden, neurons)]
        for name, (outputs, inputs) in zip(NAMES[kind], places, strict=True):
            whole, cut = full.get_submodule(name), narrow.get_submodule(name)
            assert (cut.out_features, cut.in_features) == cut.weight.shape == (len(outputs), len(inputs))
            for i, row in enumerate(outputs):
                assert cut.bias[i] == whole.bias[row]
                assert cut.weight[i].tolist() == [whole.weight[row, column].item() for column in inputs]
        norms = [[m for m in layer.modules() if isinstance(m, nn.LayerNorm)] for layer in (full, narrow)]
        for whole, cut in zip(*norms, strict=True):
            assert cut.weight.tolist() == whole.weight.tolist()
            assert cut.bias.tolist() == whole.bias.tolist()


def test_layers_that_were_changed_since_they_were_wrapped_are_refused():
    model = tiny_model(weights="own")
    query = model.tail.layers[0].attention.self
    query.query = nn.Sequential(nn.Linear(HIDDEN, 4), nn.Linear(4, HIDDEN))
    with pytest.raises(InputError, match="wrap the encoder as it was before"):
        model.tail.narrow[0].fill(list(model.tail.layers))


@torch.no_grad()
def test_a_first_run_passes_what_was_just_cut_and_refuses_what_computes_something_else(plain_path):
    model = private(plain_path, shaken=False)
    batch = make_batch(model.config.encoder, LENGTHS)
    before = [model(**batch, width=width).logits for width in WIDTHS]
    try_out_own(model.train())
    assert model.training
    assert all(torch.equal(model.eval()(**batch, width=w).logits, b) for w, b in zip(WIDTHS, before, strict=True))
    for parameter in model.tail.narrow[1].parameters():
        parameter.mul_(2)
    with pytest.raises(EncoderError, match="computes something else with fewer heads"):
        try_out_own(model)


@pytest.mark.parametrize("family", ["mpnet", "roformer", "deberta-v2"], indirect=True)
def test_an_attention_that_counts_its_heads_by_another_name_is_refused(plain_path, monkeypatch):
    monkeypatch.setattr("sharcs.subnetworks.own.COUNT_ATTRIBUTES", ())
    monkeypatch.setattr("sharcs.subnetworks.own.SIZE_ATTRIBUTES", ())
    with pytest.raises(EncoderError, match="with fewer heads"):
        private(plain_path, shaken=False)


def test_a_model_refuses_an_attention_whose_heads_it_cant_count(monkeypatch):
    monkeypatch.setattr("sharcs.subnetworks.own.COUNT_ATTRIBUTES", ())
    monkeypatch.setattr("sharcs.subnetworks.own.SIZE_ATTRIBUTES", ())
    with pytest.raises(EncoderError, match="with fewer heads"):
        tiny_model("mpnet", weights="own")


def test_they_learn_where_the_full_network_is_frozen():
    model = tiny_model()
    model.tail.layers.requires_grad_(False)
    model = with_own_weights(model)
    assert all(parameter.requires_grad for parameter in own_parameters(model))


@torch.no_grad()
def test_the_full_width_is_the_plain_network(plain_path):
    batch = make_batch((model := private(plain_path)).config.encoder, LENGTHS)
    assert torch.equal(model(**batch, width=1.0).logits, load_plain(plain_path)(**batch).logits)


@pytest.mark.parametrize("length", [1, 7, 30])
def test_the_cost_is_what_the_flop_counter_counts(plain_path, length):
    model = private(plain_path, attn_implementation="eager")
    batch = make_batch(model.config.encoder, [length])
    cost = flops(model.cost_coefficients(), torch.tensor([length]))[0].tolist()
    for index, width in enumerate(WIDTHS):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**batch, width=width)
        assert cost[index] == counter.get_total_flops()


@torch.no_grad()
def test_a_mixed_batch_equals_inputs_run_one_by_one(plain_path):
    model = private(plain_path)
    batch = make_batch(model.config.encoder, LENGTHS)
    mixed = torch.tensor([1, 0, 2, 0])
    alone = [model(**row_of(batch, row), width=WIDTHS[index]) for row, index in enumerate(mixed.tolist())]
    for prepared in (False, True):
        if prepared:
            model.prepare_for_inference()
        found = model(**batch, width_index=mixed).logits
        torch.testing.assert_close(found, torch.cat([output.logits for output in alone]), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_they_follow_a_change_of_the_attention_implementation(family, plain_path):
    model = private(plain_path, attn_implementation="eager")
    batch = make_batch(model.config.encoder, LENGTHS)
    expected = model(**batch, width=WIDTHS[0]).logits
    for implementation in attention_implementations(family):
        model.set_attn_implementation(implementation)
        assert {own.config._attn_implementation for own in model.tail.narrow} == {implementation}
        torch.testing.assert_close(model(**batch, width=WIDTHS[0]).logits, expected, atol=1e-5, rtol=1e-4)


def test_they_are_saved_and_loaded(plain_path, tmp_path):
    model = private(plain_path)
    for own in model.tail.narrow:
        own.fill(list(model.tail.layers), random_importance(len(model.tail.layers)).orders())
    model.save_pretrained(tmp_path)
    again = SharcsForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.weights == "own"
    batch = make_batch(model.config.encoder, LENGTHS)
    for width in WIDTHS:
        with torch.no_grad():
            assert torch.equal(model(**batch, width=width).logits, again(**batch, width=width).logits)


def test_a_model_with_random_weights_starts_with_slices_of_them(bert_path):
    fresh = SharcsForSequenceClassification(private(bert_path).config)
    for own in fresh.tail.narrow:
        whole, cut = fresh.tail.layers[0].output.dense, own.layers[0].output.dense
        assert torch.equal(cut.weight, whole.weight[: cut.weight.shape[0], : cut.weight.shape[1]])


def test_gradients_stay_with_the_width_that_ran(bert_path):
    model = private(bert_path)
    batch = make_batch(model.config.encoder, LENGTHS)
    model(**batch, width=WIDTHS[0]).logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.tail.narrow[0].parameters())
    others = [*model.tail.narrow[1].parameters(), *model.tail.layers.parameters()]
    assert all(parameter.grad is None for parameter in others)


def test_the_configuration_decides_which_weights_narrow_networks_have(tmp_path):
    shared, own = tiny_model(), tiny_model(weights="own")
    assert (shared.config.weights, own.config.weights) == ("shared", "own")
    assert not any("layers" in name for name, _ in shared.subnetworks.named_parameters())
    assert not any("norms" in name for name, _ in own.subnetworks.named_parameters())
    weights = {name: value.clone() for name, value in own.state_dict().items()}
    trainer_for(tmp_path, own, toy_rows(16), **PLUS)
    assert all(torch.equal(value, weights[name]) for name, value in own.state_dict().items())
    with pytest.raises(ValueError, match=r"train it with SharcsTrainer, or wrap .*weights='shared'"):
        trainer_for(tmp_path, own, toy_rows(16))
    with pytest.raises(ValueError, match=r"train it with PaperTrainer, or wrap .*weights='own'"):
        trainer_for(tmp_path, shared, toy_rows(16), **PLUS)
