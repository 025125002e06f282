"""Sub-networks copied into plain layers, against the slices of the shared weights; the trunk and a tail alone."""

import copy
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.encoders import (
    ENCODERS,
    NUM_LABELS,
    WIDTHS,
    attention_implementations,
    load_routed,
    make_batch,
    save_plain,
)
from sharcs import InputError
from sharcs.model.layer_list import trunk_layers
from sharcs.subnetworks import shared as subnetworks

LENGTHS = [4, 9, 1, 6]
MIXED = torch.tensor([0, 1, 2, 0])
FAMILY_ATTENTION = [(name, attention) for name in ENCODERS for attention in attention_implementations(name)]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Save every family once."""
    folder = tmp_path_factory.mktemp("families")
    return {name: save_plain(name, folder / name) for name in ENCODERS}


@pytest.fixture
def bert(bert_path):
    return load_routed(bert_path)


@torch.no_grad()
def run(model, batch, **kwargs):
    return model(**batch, **kwargs).logits


def batch_of(model, lengths=LENGTHS):
    return make_batch(model.config.encoder, lengths)


def refuse_slices(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("slices of the shared weights were run")

    monkeypatch.setattr(subnetworks, "functional_call", refused)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("family", "attention"), FAMILY_ATTENTION)
def test_the_copies_give_what_the_slices_give(paths, family, attention, dtype, monkeypatch):
    model = load_routed(paths[family], attn_implementation=attention).to(dtype)
    batch = batch_of(model)
    forced = [{"width": width} for width in WIDTHS] + [{"width_index": MIXED}]
    expected = [run(model, batch, **how) for how in forced]
    model.prepare_for_inference()
    refuse_slices(monkeypatch)
    # Bit for bit, but where layers run without their modules.
    bound = 0.0 if attention == "eager" else 1e-5 if dtype == torch.float32 else 0.05
    for how, logits in zip(forced, expected, strict=True):
        torch.testing.assert_close(run(model, batch, **how), logits, atol=bound, rtol=bound)


def test_the_copies_are_contiguous_and_no_part_of_the_network(bert):
    names = [list(bert.state_dict()), [n for n, _ in bert.named_parameters()], [n for n, _ in bert.named_modules()]]
    bert.prepare_for_inference()
    assert names == [
        list(bert.state_dict()),
        [n for n, _ in bert.named_parameters()],
        [n for n, _ in bert.named_modules()],
    ]
    shared = {parameter.untyped_storage().data_ptr() for parameter in bert.parameters()}
    copies = [p for layers in bert.tail.fast.layers[:-1] for layer in layers for p in layer.parameters()]
    assert len(copies) == 2 * 2 * 16  # widths, layers, tensors of a BERT layer
    assert all(p.is_contiguous() and p.untyped_storage().data_ptr() not in shared for p in copies)


def test_the_copies_are_made_once(bert):
    bert.prepare_for_inference()
    made = bert.tail.fast
    bert.eval()
    bert.prepare_for_inference()
    assert bert.tail.fast is made


def step_in_evaluation_mode(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model(**batch_of(model), width_index=MIXED).logits.square().sum().backward()
    optimiser.step()


def write_by_hand(model):
    with torch.no_grad():
        for parameter in model.tail.layers.parameters():
            parameter.mul_(1.5)


def norms_by_hand(model):
    with torch.no_grad():
        for parameter in [p for part in model.tail.narrow for p in part.norms.parameters()]:
            parameter.mul_(1.5)


def past_the_counters(model):
    model.train()
    for parameter in model.tail.layers.parameters():
        parameter.data.mul_(1.5)
    model.eval()


def other_state(model):
    return {name: value * 1.5 for name, value in model.state_dict().items()}


CHANGES = {
    "a training step in evaluation mode": step_in_evaluation_mode,
    "weights by hand": write_by_hand,
    "private norms by hand": norms_by_hand,
    "training mode in between": past_the_counters,
    "a loaded state": lambda model: model.load_state_dict(other_state(model)),
    "a loaded state in other tensors": lambda model: model.load_state_dict(other_state(model), assign=True),
    "another dtype": lambda model: model.to(torch.float64),
    "another attention": lambda model: model.set_attn_implementation("eager"),
}


@pytest.mark.parametrize("again", [False, True], ids=["", "prepared again"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_copies_of_weights_that_have_changed_are_not_run(bert, change, again):
    never_prepared = copy.deepcopy(bert)
    bert.prepare_for_inference()
    run(bert, batch_of(bert), width_index=MIXED)
    for model in (bert, never_prepared):
        change(model)
    if again:
        bert.prepare_for_inference()
    expected = run(never_prepared, batch_of(bert), width_index=MIXED)
    bound = 1e-5 if again else 0.0
    torch.testing.assert_close(run(bert, batch_of(bert), width_index=MIXED), expected, atol=bound, rtol=bound)


def test_a_copy_doesnt_follow_the_network_that_it_was_copied_from(bert):
    bert.prepare_for_inference()
    expected = run(bert, batch_of(bert), width_index=MIXED)
    copied, sent = copy.deepcopy(bert), pickle.loads(pickle.dumps(bert))
    for parameter in bert.parameters():
        parameter.data.zero_()
    for model in (copied, sent):
        model.prepare_for_inference()
        assert torch.equal(run(model, batch_of(bert), width_index=MIXED), expected)


def test_a_prepared_network_can_be_copied_and_trained(bert):
    bert.prepare_for_inference()
    copied = copy.deepcopy(bert)
    write_by_hand(copied)
    never_prepared = copy.deepcopy(copied)
    never_prepared.tail.fast = None
    expected = run(never_prepared, batch_of(bert), width=0.25)
    assert torch.equal(run(copied, batch_of(bert), width=0.25), expected)
    bert(**batch_of(bert), width=0.25).logits.sum().backward()
    assert all(layer.output.dense.weight.grad is not None for layer in bert.tail.layers)


class Operations(TorchDispatchMode):
    """Names every operation that runs."""

    def __init__(self):
        """Start with none."""
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Note the operation and run it."""
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("forced", [{}, {"width": 0.25}])
def test_one_input_is_neither_sorted_nor_scattered_and_waited_for_once(bert, forced):
    bert.set_attn_implementation("eager")
    bert.prepare_for_inference()
    # The encoder's own masks wait too, so a batch without one.
    batch = {"input_ids": batch_of(bert, [7])["input_ids"]}
    with Operations() as operations:
        run(bert, batch, **forced)
    assert not {"sort", "argsort", "bincount", "scatter", "index", "cat"} & set(operations.names)
    assert operations.names.count("_local_scalar_dense") == (0 if forced else 1)


@torch.no_grad()
def test_trunk_and_tail_alone_are_the_whole(plain_path):
    model = load_routed(plain_path)
    batch = batch_of(model)
    whole = model(**batch)
    trunk = model.run_trunk(**batch)
    assert trunk.hidden.shape == (4, 9, 32)
    assert torch.equal(trunk.router_logits, whole.router_logits)
    assert torch.equal(trunk.width_index, whole.width_index)
    for width in WIDTHS:
        logits = model.run_tail(trunk.hidden, batch["attention_mask"], width)
        assert torch.equal(logits, model(**batch, width=width).logits)


@torch.no_grad()
def test_a_loaded_model_may_continue_before_it_runs_anything_else(plain_path, tmp_path):
    model = load_routed(plain_path)
    batch = batch_of(model)
    hidden = model.run_trunk(**batch).hidden
    model.save_pretrained(tmp_path)
    given = {"hidden": hidden, "attention_mask": batch["attention_mask"], "width": WIDTHS[0]}
    expected = model.run_tail(**given)
    assert torch.equal(type(model).from_pretrained(tmp_path).run_tail(**given), expected)
    trained, answers = type(model).from_pretrained(tmp_path).train(), []
    for _ in range(2):  # what it has to find out the first time draws no dropout's numbers
        torch.manual_seed(0)
        answers.append(trained.run_tail(**given))
    assert torch.equal(*answers)


@torch.no_grad()
def test_a_loaded_model_may_be_prepared_before_it_runs_anything_else(plain_path, tmp_path):
    model = load_routed(plain_path)
    batch = batch_of(model)
    expected = model(**batch, width=WIDTHS[0]).logits
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    loaded.prepare_for_inference()
    torch.testing.assert_close(loaded(**batch, width=WIDTHS[0]).logits, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_tail_takes_inputs_of_several_batches_padded_anew(plain_path):
    model = load_routed(plain_path)
    batches = [batch_of(model, lengths) for lengths in ([4, 9], [6], [2, 12, 3])]
    rows = [(batch, row) for batch in batches for row in range(len(batch["input_ids"]))]
    trunks = [model.run_trunk(**batch).hidden for batch in batches]
    hidden = torch.full((len(rows), 12, 32), 1e3)  # what padding holds is of no account
    mask = torch.zeros(len(rows), 12, dtype=torch.long)
    place = 0
    for batch, kept in zip(batches, trunks, strict=True):
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            hidden[place, :length], mask[place, :length] = kept[row, :length], 1
            place += 1
    for width in WIDTHS:
        logits = model.run_tail(hidden, mask, width)
        alone = torch.cat([model(**batch, width=width).logits for batch in batches])
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_each_part_runs_its_own_layers_only(plain_path):
    model = load_routed(plain_path)
    batch, ran = batch_of(model), []
    (below,) = trunk_layers(model.encoder)
    if below is model.tail.layers[0]:
        pytest.skip("one layer runs below and above")
    head = next(m for name, m in model.encoder.named_children() if "classifier" in name)
    body = model.encoder.base_model
    embeddings = getattr(body, "embeddings", None) or body.embed_tokens
    names = {"below": below, "embeddings": embeddings, "router": model.tail.router}
    names |= {"above": model.tail.layers[-1], "head": head}
    for name, module in names.items():
        module.register_forward_hook(
            lambda module, args, output, name=name: ran.append((name, output[0].shape[-2] if name == "above" else 0))
        )
    trunk = model.run_trunk(**batch)
    assert [name for name, _ in ran] == ["embeddings", "below", "router"]
    ran.clear()
    model.run_tail(trunk.hidden, batch["attention_mask"], 1.0)
    # Some encoders don't run them on what is embedded already.
    assert [name for name, _ in ran if name != "embeddings"] == ["above", "head"]


@torch.no_grad()
def test_embeddings_run_on_one_token_when_nothing_reads_them(bert):
    batch, seen = batch_of(bert), []
    bert.encoder.bert.embeddings.LayerNorm.register_forward_hook(
        lambda m, args, output: seen.append(output.shape[:2])
    )
    trunk = bert.run_trunk(**batch)
    bert.run_tail(trunk.hidden, batch["attention_mask"], 0.25)
    bert(**batch, widths="all")
    assert seen == [(4, 9), (1, 1), (4, 9), (1, 1), (1, 1)]


def test_inputs_continue_at_a_width_that_there_is(bert):
    with pytest.raises(InputError, match=r"width 0\.3"):
        bert.run_tail(torch.zeros(1, 3, 32), None, 0.3)
    assert bert.run_tail(torch.zeros(2, 3, 32), None, 1.0).shape == (2, NUM_LABELS)
