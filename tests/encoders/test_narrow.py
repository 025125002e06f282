"""Narrow layers against plain Hugging Face layers of the narrow size with weights cut by other code."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers import BertConfig, DistilBertConfig, EuroBertConfig, GPT2Config
from transformers.models.eurobert.modeling_eurobert import EuroBertRMSNorm

from helpers.encoders import ENCODERS, HANDED_MORE, WIDTHS, Size, corner, load_plain, plain_layers
from sharcs.encoders.architectures import architecture_of
from sharcs.encoders.narrow import ArgumentSlicer, build_twin, narrow_config, norm_names, prefix, slice_parameters
from sharcs.errors import InputError

NARROW = WIDTHS[:-1]


ALONE = [name for name in ENCODERS if name not in HANDED_MORE]  # the rest: test_modeling's sliced copies


def states(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.fixture
def layer(plain_path):
    return plain_layers(load_plain(plain_path))[-1]


@pytest.fixture(params=NARROW)
def narrow(request, family):
    return narrow_config(ENCODERS[family](), request.param)


@pytest.mark.parametrize("width", NARROW)
def test_narrow_config_is_the_familys_config_of_the_smaller_size(family, width):
    full = ENCODERS[family]()
    before = copy.deepcopy(full).to_dict()
    found, expected = (c.to_dict() for c in (narrow_config(full, width), ENCODERS[family](Size().narrow(width))))
    for settings in (found, expected):
        settings.pop("pooler_hidden_size", None)  # of the head
    assert found == expected
    assert full.to_dict() == before


@pytest.mark.parametrize(
    ("heads", "width", "expected"),
    [(12, 0.33, (256, 4, 1024)), (12, 0.25, (192, 3, 768)), (12, 0.66, (512, 8, 2048)), (12, 1.0, (768, 12, 3072))],
)
def test_narrow_config_counts_whole_heads_of_unchanged_size(heads, width, expected):
    narrow = narrow_config(BertConfig(num_attention_heads=heads), width)
    assert (narrow.hidden_size, narrow.num_attention_heads, narrow.intermediate_size) == expected
    assert narrow.hidden_size // narrow.num_attention_heads == 768 // heads


def test_narrow_config_without_a_known_feed_forward_size_is_refused():
    with pytest.raises(InputError, match=r"gpt2.*feed-forward size"):
        narrow_config(GPT2Config(), 0.5)


def test_a_size_that_the_file_names_and_the_class_does_not_is_left_alone():
    stray = DistilBertConfig(dim=32, n_heads=4, hidden_dim=48, intermediate_size=3072)
    narrow = narrow_config(stray, 0.5)
    assert (narrow.hidden_dim, narrow.intermediate_size) == (24, 3072)


@pytest.mark.parametrize("full", [(6,), (4, 6), (3, 4, 5)])
def test_prefix_is_the_leading_corner_and_a_view(full):
    tensor = torch.arange(float(np.prod(full))).reshape(full)
    shape = torch.Size(size - 1 for size in full)
    cut = prefix(tensor, shape)
    assert cut.shape == shape
    for index in np.ndindex(*shape):
        assert cut[index] == tensor[index]
    tensor.fill_(-1.0)
    assert (cut == -1).all()


def test_twin_takes_no_memory(layer, narrow):
    twin = build_twin(layer, narrow, 1)
    assert type(twin) is type(layer)
    assert {tensor.device.type for tensor in twin.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("family", ALONE, indirect=True)
def test_twin_on_slices_equals_a_plain_layer_with_sliced_weights(family, layer, narrow):
    heads = narrow.num_attention_heads
    dense = type(layer)(ENCODERS[family](Size().narrow(heads / 4))).eval()
    dense.load_state_dict(
        {name: corner(layer.state_dict()[name], value.shape) for name, value in dense.state_dict().items()}
    )
    twin = build_twin(layer, narrow, 1).eval()
    hidden = torch.randn(2, 5, narrow.hidden_size, generator=torch.Generator().manual_seed(0))
    output = states(functional_call(twin, slice_parameters(layer, twin, architecture_of(narrow)), (hidden,)))
    assert output.shape == hidden.shape
    torch.testing.assert_close(output, states(dense(hidden)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ALONE, indirect=True)
def test_gradients_through_slices_land_in_the_prefix_of_the_shared_weights(family, layer, narrow):
    heads = narrow.num_attention_heads
    dense = type(layer)(ENCODERS[family](Size().narrow(heads / 4))).eval()
    dense.load_state_dict(
        {name: corner(layer.state_dict()[name], value.shape) for name, value in dense.state_dict().items()}
    )
    twin = build_twin(layer, narrow, 1).eval()
    hidden = torch.randn(2, 5, narrow.hidden_size, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    (
        states(functional_call(twin, slice_parameters(layer, twin, architecture_of(narrow)), (hidden,))) * weights
    ).sum().backward()
    (states(dense(hidden)) * weights).sum().backward()
    for name, parameter in layer.named_parameters():
        expected = dense.get_parameter(name).grad
        torch.testing.assert_close(corner(parameter.grad, expected.shape), expected, rtol=0, atol=1e-5)
        assert parameter.grad.count_nonzero() == corner(parameter.grad, expected.shape).count_nonzero()


def test_norm_names_are_the_layer_norms_in_order(layer):
    kinds = (nn.LayerNorm, EuroBertRMSNorm)
    assert norm_names(layer) == [name for name, module in layer.named_modules() if isinstance(module, kinds)]
    assert len(norm_names(layer)) == 2


def test_cutting_an_argument_takes_position_biases_by_head_embeddings_by_dimension_and_nothing_else():
    bias, embeddings = torch.randn(2, 4, 5, 5), torch.randn(6, 8)
    first = ArgumentSlicer(4, slice(2), slice(3), ("embeddings",))
    assert torch.equal(first("bias", bias), torch.stack([bias[:, 0], bias[:, 1]], dim=1))
    assert torch.equal(first("embeddings", embeddings), embeddings[:, :3])
    chosen = ArgumentSlicer(4, torch.tensor([3, 1]), torch.tensor([7, 0, 2]), ("embeddings",))
    assert torch.equal(chosen(0, bias), torch.stack([bias[:, 3], bias[:, 1]], dim=1))
    assert torch.equal(chosen("embeddings", embeddings), torch.stack([embeddings[:, d] for d in (7, 0, 2)], dim=1))
    assert first("embeddings", None) is None
    for other in (torch.randn(2, 1, 5, 5), torch.randn(2, 4, 5), torch.randn(4, 8), None, False, "eager"):
        assert first("other", other) is other


@pytest.mark.parametrize("blocks", [2, 3])
def test_prefix_of_fused_projections_is_cut_from_each(blocks):
    parts = [torch.randn(4, 6) for _ in range(blocks)]
    fused = torch.cat(parts).requires_grad_()
    cut = prefix(fused, torch.Size([blocks * 2, 3]), blocks)
    assert torch.equal(cut, torch.cat([part[:2, :3] for part in parts]))
    cut.sum().backward()
    expected = torch.zeros(4, 6)
    expected[:2, :3] = 1
    assert torch.equal(fused.grad, torch.cat([expected] * blocks))
    biases = [torch.randn(4) for _ in range(blocks)]
    whole = prefix(torch.cat(biases), torch.Size([blocks * 2]), blocks)
    assert torch.equal(whole, torch.cat([bias[:2] for bias in biases]))


def test_fewer_keys_than_queries_are_narrowed_by_whole_groups():
    narrow = narrow_config(EuroBertConfig(hidden_size=96, num_attention_heads=12, num_key_value_heads=4), 0.5)
    assert (narrow.hidden_size, narrow.num_attention_heads, narrow.num_key_value_heads) == (48, 6, 2)
    assert narrow.head_dim == 8
