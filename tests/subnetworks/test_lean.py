"""Layers without their modules, against the layers themselves; and that others, and other calls, run as they are."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertLayer

from helpers.encoders import ENCODERS, FIRST_WORD, WIDTHS, load_routed, make_batch, row_of, save_plain
from helpers.media import MEDIA
from helpers.media import load_routed as load_media
from helpers.media import make_batch as make_media_batch
from helpers.media import save_plain as save_media
from helpers.own import with_own_weights
from sharcs.subnetworks import lean
from sharcs.subnetworks.lean import LeanLayer
from subnetworks.test_private import private

TEXT = {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "data2vec-text"}
NOT_MEDIA = {"dinov2", "dinov2-swiglu"}  # they scale what a layer adds
FAMILIES = [*ENCODERS, *MEDIA]
LENGTHS, MIXED = [4, 9, 1, 6], torch.tensor([0, 1, 2, 0])
SIZE, HEADS = 32, 4


@pytest.fixture(scope="module")
def open_family(tmp_path_factory):
    """Open any family, of text or not, and make a batch for it."""
    folder = tmp_path_factory.mktemp("families")

    def get(name):
        path = folder / name
        if name in MEDIA:
            save_media(name, path)
            return load_media(name, path, attn_implementation="sdpa"), make_media_batch(name)
        save_plain(name, path)
        model = load_routed(path)
        return model, make_batch(model.config.encoder, LENGTHS)

    return get


@pytest.fixture
def bert(bert_path):
    """A routed network with weights of its own for every narrow width, attention by PyTorch, and a batch."""
    model = private(bert_path, attn_implementation="sdpa")
    return model, make_batch(model.config.encoder, LENGTHS)


@torch.no_grad()
def run(model, batch, **kwargs):
    return model(**batch, **kwargs).logits


def layers_of(model):
    """List every layer that may run: the trunk's, the full network's, every narrow one's."""
    narrow = [layer for own in model.tail.narrow for layer in own.layers]
    return [*model.tail.trunk, *model.tail.layers, *narrow]


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("with_weights_of_its_own", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_layers_of_the_common_build_run_without_their_modules(open_family, name, with_weights_of_its_own):
    model, batch = open_family(name)
    if with_weights_of_its_own:
        model = with_own_weights(model)
        model.eval()
    forced = [{"width": width} for width in WIDTHS] + [{"width_index": MIXED[: len(next(iter(batch.values())))]}]
    expected = [run(model, batch, **how) for how in forced]
    model.prepare_for_inference()
    run(model, batch, width_index=torch.arange(len(WIDTHS)).repeat(2)[: len(forced)])  # each form is tried once
    ran = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda module, *_: ran.append(module))
    for how, logits in zip(forced, expected, strict=True):
        close(run(model, batch, **how), logits)
    is_lean = name in TEXT if name in ENCODERS else name not in NOT_MEDIA
    assert (not ran) == is_lean


@pytest.mark.parametrize("length", [1, 2, 30])
def test_one_input_and_batches_of_one_length(bert, length):
    model, _ = bert
    batch = make_batch(model.config.encoder, [length, length])
    for given in (batch, row_of(batch, 0), {"input_ids": batch["input_ids"]}):
        expected = [run(model, given, width=width) for width in WIDTHS]
        model.prepare_for_inference()
        for width, logits in zip(WIDTHS, expected, strict=True):
            close(run(model, given, width=width), logits)
        model.tail.fast = None


@torch.no_grad()
def test_inputs_continue_from_what_the_lean_trunk_kept(bert):
    model, batch = bert
    expected = [run(model, batch, width=width) for width in WIDTHS]
    model.prepare_for_inference()
    hidden = model.run_trunk(**batch).hidden
    for width, logits in zip(WIDTHS, expected, strict=True):
        close(model.run_tail(hidden, batch["attention_mask"], width), logits)


def test_other_weights_are_seen_wherever_they_are(bert):
    model, batch = bert
    places = {
        "trunk": model.tail.trunk[0].attention.self.key.weight,
        "full": model.tail.layers[-1].output.dense.weight,
        "narrow": model.tail.narrow[0].layers[0].attention.self.value.bias,
    }
    for name, weight in places.items():
        model.prepare_for_inference()
        before = run(model, batch, width_index=MIXED)
        with torch.no_grad():
            weight.mul_(1.5)
        found = run(model, batch, width_index=MIXED)
        assert (found - before).abs().max() > 1e-3, name
        model.tail.fast = None
        assert torch.equal(found, run(model, batch, width_index=MIXED)), name


@pytest.mark.parametrize(
    "change", ["scaling", "another activation", "an adapter", "a narrow adapter", "a scale", "causal"]
)
def test_layers_that_compute_something_else_run_as_they_are(bert, change):
    model, batch = bert
    for layer in layers_of(model):
        if change == "scaling":
            layer.attention.self.scaling *= 2
        elif change == "another activation":
            layer.intermediate.intermediate_act_fn = nn.Softplus()
        elif change == "an adapter":
            layer.output.dense = nn.Sequential(layer.output.dense, nn.Linear(SIZE, SIZE))
        elif change == "a narrow adapter":
            if layer not in [*model.tail.trunk, *model.tail.layers]:
                layer.attention.self.query = nn.Sequential(layer.attention.self.query)
        elif change == "causal":
            layer.attention.self.is_causal = True
        else:
            layer.attention.register_parameter("scale", nn.Parameter(torch.ones(1)))
    given = {"input_ids": batch["input_ids"]}  # without a mask, where causal attention would show
    expected = run(model, given, width_index=MIXED)
    model.prepare_for_inference()
    close(run(model, given, width_index=MIXED), expected)
    close(run(model, given, width_index=MIXED), expected)
    is_lean = any(isinstance(layer, LeanLayer) for layer in model.tail.fast.layers[0])
    assert is_lean == (change in ("scaling", "another activation", "causal"))  # what only a trial can tell


def one_layer(bert):
    """Take one layer of its full network, and make a lean one of it."""
    model, _ = bert
    layer = model.tail.layers[0]
    made = LeanLayer.of(layer, layer, model.encoder.config, SIZE // HEADS)
    torch.manual_seed(0)
    return layer, made, torch.randn(3, 6, SIZE)


def masks():
    seen = torch.ones(3, 1, 6, 6, dtype=torch.bool)
    seen[0, ..., 4:] = seen[2, ..., 1:] = False
    lowest = torch.finfo(torch.float32).min
    added = torch.zeros(seen.shape).masked_fill(~seen, lowest)
    return {"none": None, "bool": seen, "added": added, "of one row": added[:, :, :1], "weak": added / lowest}


@pytest.mark.parametrize("mask", masks().values(), ids=masks())
@torch.no_grad()
def test_masks_are_what_they_are_for_the_layer(bert, mask):
    layer, made, hidden = one_layer(bert)
    calls = count_calls(layer)
    for _ in range(2):
        close(made(hidden, mask), layer(hidden, mask))
    assert len(calls) == 3  # the trial, and the two above
    close(made(hidden, attention_mask=mask), layer(hidden, attention_mask=mask))


def count_calls(layer):
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    return calls


class Taking(BertLayer):
    """A layer that is handed more than it needs."""

    def forward(self, hidden, mask=None, other=None, **kwargs):
        """Add what else it is handed."""
        hidden = super().forward(hidden, mask)
        return hidden if not isinstance(other, torch.Tensor) else hidden + other


class Pair(BertLayer):
    """A layer that returns a tuple."""

    extra = None

    def forward(self, *args, **kwargs):
        """Return two things."""
        return super().forward(*args, **kwargs), self.extra


class Deaf(BertLayer):
    """A layer that reads no mask."""

    def forward(self, hidden, mask=None):
        """Drop the mask."""
        return super().forward(hidden)


@torch.no_grad()
def test_a_mask_that_hides_nothing_doesnt_prove_that_a_layer_reads_it(bert):
    layer, made, hidden = one_layer(bert)
    layer.__class__ = Deaf
    made(hidden, torch.ones_like(masks()["bool"]))
    close(made(hidden, masks()["bool"]), layer(hidden))


@pytest.mark.parametrize("given", [torch.ones(3, 6, SIZE), {"a": 1}, 7], ids=["tensor", "dictionary", "number"])
@torch.no_grad()
def test_what_else_a_layer_may_be_handed_is_its_own_affair(bert, given):
    layer, made, hidden = one_layer(bert)
    layer.__class__ = Taking
    calls = count_calls(layer)
    expected = layer(hidden, masks()["bool"], given)
    for count in (2, 3):
        close(made(hidden, masks()["bool"], given), expected)
        assert len(calls) == count
    assert not any(made._ways.values())
    close(made(hidden, masks()["bool"], None), layer(hidden, masks()["bool"], None))


class Biased(BertLayer):
    """A layer with position biases, which on a mask in their place answers as if there were none."""

    def forward(self, hidden, mask, bias):
        """Add them to the mask."""
        return super().forward(hidden, mask + bias)


@torch.no_grad()
def test_position_biases_beside_a_mask_are_the_layers_own(bert):
    layer, made, hidden = one_layer(bert)
    layer.__class__ = Biased
    given = masks()["added"], torch.randn(3, HEADS, 6, 6)
    close(made(hidden, *given), layer(hidden, *given))


@torch.no_grad()
def test_a_tensor_of_another_kind_is_no_mask(bert):
    layer, made, hidden = one_layer(bert)
    layer.__class__ = Taking
    other = torch.ones(6, SIZE)
    close(made(hidden, None, other), layer(hidden, None, other))


@torch.no_grad()
def test_the_form_of_the_output_is_the_layers(bert):
    layer, made, hidden = one_layer(bert)
    layer.__class__ = Pair
    calls = count_calls(layer)
    states, other = made(hidden)
    close(states, layer(hidden)[0])
    assert other is None
    assert len(calls) == 2
    layer.extra = torch.ones(1)
    _, made, _ = one_layer(bert)
    assert made(hidden)[1] is layer.extra


def test_attributes_are_the_layers(bert):
    layer, made, _ = one_layer(bert)
    assert made.chunk_size_feed_forward is layer.chunk_size_feed_forward
    with pytest.raises(AttributeError):
        _ = made.nothing_of_this_name
    assert copy.deepcopy(made).layer is not layer


@torch.no_grad()
def test_mixed_precision_is_the_layers(bert):
    model, batch = bert
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = run(model, batch, width_index=MIXED)
    model.prepare_for_inference()
    run(model, batch, width_index=MIXED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(model, batch, width_index=MIXED), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(bert, dtype):
    model, batch = bert
    model.to(dtype)
    expected = run(model, batch, width_index=MIXED)
    model.prepare_for_inference()
    bound = 1e-9 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(run(model, batch, width_index=MIXED), expected, atol=bound, rtol=bound)


@pytest.mark.parametrize("missing", ["this processor", "oneDNN"])
def test_products_that_nothing_packs_are_torchs(bert, monkeypatch, missing):
    model, batch = bert
    expected = run(model, batch, width_index=MIXED)
    if missing == "oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(lean, "PACKS", False)
    monkeypatch.setattr(lean, "_packed_product", None)
    model.prepare_for_inference()
    close(run(model, batch, width_index=MIXED), expected)
    assert isinstance(model.tail.fast.layers[0][0], LeanLayer)


def test_products_that_fail_are_the_layers_own(bert, monkeypatch):
    def failing(*args):
        raise RuntimeError("could not create a primitive")

    model, batch = bert
    expected = run(model, batch, width_index=MIXED)
    monkeypatch.setattr(lean, "PACKS", True)
    monkeypatch.setattr(lean, "_packed_product", lambda *args: failing)
    model.prepare_for_inference()
    close(run(model, batch, width_index=MIXED), expected)


@pytest.mark.skipif(not lean.PACKS, reason="products are not packed on this processor")
def test_batches_of_any_shape_meet_few_shapes_of_products(bert, monkeypatch):
    model, _ = bert
    plain, seen, packed = [], set(), lean._packed_product

    def spied(*args):
        product = packed(*args)

        def run_and_note(inputs):
            seen.add(len(inputs))
            return product(inputs)

        return run_and_note

    monkeypatch.setattr(lean, "_packed_product", spied)
    prepared = copy.deepcopy(model)
    prepared.prepare_for_inference()
    sizes = [(size, length) for size in (1, 2, 5, 11) for length in range(1, 31)]
    for size, length in sizes:
        batch = make_batch(model.config.encoder, [length] * size)
        close(run(prepared, batch, width=0.25), run(model, batch, width=0.25))
        plain.append(size * length)
    assert len(set(plain)) > 70
    assert seen == {lean.round_up(tokens) for tokens in plain} | {lean.round_up(10)}  # those of the trial
    assert len(seen) < 36


def test_few_numbers_are_rounded_up_to_and_by_little():
    rounded = [lean.round_up(tokens) for tokens in range(1, 4097)]
    assert len(set(rounded)) == 64
    assert all(0 <= found - tokens <= max(3, tokens / 8) for tokens, found in enumerate(rounded, start=1))


def test_eager_attention_stays_eager(bert):
    model, batch = bert
    model.set_attn_implementation("eager")
    expected = run(model, batch, width_index=MIXED)
    model.prepare_for_inference()
    assert not any(isinstance(layer, LeanLayer) for layer in [*model.tail.fast.trunk, *model.tail.fast.layers[0]])
    assert torch.equal(run(model, batch, width_index=MIXED), expected)
    model.set_attn_implementation("sdpa")
    assert model.tail.fast is None


def test_words_of_any_batch_give_what_the_modules_give(bert):
    model, _ = bert
    prepared = copy.deepcopy(model)
    prepared.prepare_for_inference()
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        lengths = torch.randint(1, 30, (int(torch.randint(1, 9, (), generator=generator)),), generator=generator)
        batch = make_batch(model.config.encoder, lengths.tolist())
        batch["input_ids"] = torch.where(
            batch["attention_mask"] == 1,
            torch.randint(FIRST_WORD, 40, batch["input_ids"].shape, generator=generator),
            batch["input_ids"],
        )
        widths = torch.randint(len(WIDTHS), (len(lengths),), generator=generator)
        close(run(prepared, batch, width_index=widths), run(model, batch, width_index=widths))
