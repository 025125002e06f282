"""Exported networks on ONNX Runtime against the PyTorch model called with one text after the other."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.encoders import WIDTHS, load_routed, save_plain
from helpers.toys import below_threshold
from inference.test_engine import (
    WORDS,
    assert_same,
    make_tokenizer,
    one_by_one,
    plain_texts,
    policies,
    several,
)
from sharcs.errors import InputError
from sharcs.export.bundle import export_model, quantise
from sharcs_runtime import OnnxRunner, RoutingPolicy, policy
from sharcs_runtime import scores as scores_of


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export a routed BERT of three widths, whose router's choices differ between texts, and load it again."""
    folder = tmp_path_factory.mktemp("runtime")
    model = load_routed(save_plain("bert", folder / "plain"))
    tokenizer = make_tokenizer(model.config.encoder.pad_token_id, segments=True)
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).router_logits for text in plain_texts(40)])
        model.tail.router.output.weight.mul_(5)
        model.tail.router.output.bias.copy_(5 * (model.tail.router.output.bias - logits.mean(dim=0)))
    tokenizer.backend_tokenizer.no_truncation()  # it keeps what it was last called with
    export_model(model, tokenizer, folder / "onnx")
    return SimpleNamespace(
        model=model, tokenizer=tokenizer, folder=folder / "onnx", runner=OnnxRunner(folder / "onnx", threads=1)
    )


# Of these weights the larger ones move inputs of which the router is sure.
weighted = st.builds(
    lambda setting, weight: setting | {"cost_weight": weight}, policies, st.sampled_from([0.0, 0.0, 0.4, 1.2, -1.2])
)


@settings(max_examples=40)
@given(
    texts=several,
    setting=weighted,
    width=st.sampled_from([None, None, None, *WIDTHS]),
    batch_tokens=st.integers(1, 200),
    window=st.integers(1, 30),
)
def test_any_texts_are_answered_as_one_by_one(exported, texts, setting, width, batch_tokens, window):
    exported.model.config.policy = setting
    expected = one_by_one(exported.model, exported.tokenizer, texts, width)
    runner = exported.runner
    runner.policy, runner.batch_tokens, runner.window = RoutingPolicy(**setting), batch_tokens, window
    if width is not None:
        runner = OnnxRunner(exported.folder, width=width, threads=1, batch_tokens=batch_tokens, window=window)
    assert_same(list(runner.predict(iter(texts))), expected)


def test_a_model_that_was_just_trained_in_mixed_precision_is_exported_in_its_own(exported, tmp_path):
    """Accelerate leaves autocast around the forward pass of the model that it was given."""
    model = copy.deepcopy(exported.model)
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    export_model(model, exported.tokenizer, tmp_path / "onnx", width=1.0)
    assert "forward" in vars(model)  # the model itself is left as it is
    texts = plain_texts(10)
    exported.model.config.policy = {"cost_weight": 0.0}
    answers = list(OnnxRunner(tmp_path / "onnx", threads=1).predict(texts))
    expected = one_by_one(exported.model, exported.tokenizer, texts, 1.0)
    assert [answer[0] for answer in answers] == [answer[0] for answer in expected]
    np.testing.assert_allclose([answer[1] for answer in answers], [answer[1] for answer in expected], atol=1e-5)


def test_a_long_stream_at_the_defaults(exported):
    setting = {"cost_weight": 0.0, "escalation_threshold": 0.6, "blend": 0.3}
    exported.model.config.policy = setting
    texts = plain_texts(300)
    expected = one_by_one(exported.model, exported.tokenizer, texts)
    assert len({first for _, _, _, first in expected}) == len(WIDTHS)
    assert any(last != first for _, _, last, first in expected)
    runner = OnnxRunner(exported.folder)
    runner.policy = RoutingPolicy(**setting)
    assert_same(list(runner.predict(texts)), expected)


def test_a_very_long_text_is_cut_as_before(exported):
    exported.model.config.policy = {"cost_weight": 0.0}
    exported.runner.policy = RoutingPolicy()
    texts = ["w1 w2 " * 50_000, " " * 9_000 + "w3 w4", "w5"]
    assert_same(list(exported.runner.predict(texts)), one_by_one(exported.model, exported.tokenizer, texts))


WITHOUT_TORCH = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "sharcs", "onnx", "datasets", "pyarrow", "scipy"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
from sharcs_runtime import OnnxRunner
runner = OnnxRunner(sys.argv[1])
print(json.dumps([list(answer) for answer in runner.predict(json.load(sys.stdin))]))
assert not {"torch", "transformers", "sharcs"} & set(sys.modules)
"""


def test_the_runner_needs_no_torch(exported):
    texts = plain_texts(30)
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, exported.folder],
        input=json.dumps(texts), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    exported.model.config.policy = {"cost_weight": 0.0}
    found = [SimpleNamespace(class_index=c, score=s, width_index=w, first_width_index=f)
             for c, s, w, f in json.loads(run.stdout)]  # fmt: skip
    assert_same(found, one_by_one(exported.model, exported.tokenizer, texts))


def test_int8_graphs_are_others_and_answer_about_the_same(exported, tmp_path):
    folder = shutil.copytree(exported.folder, tmp_path / "int8")
    quantise(folder)
    for name in ("tail-2.onnx", "trunk.onnx"):
        assert (folder / name).read_bytes() != (exported.folder / name).read_bytes()
    assert json.loads((folder / "sharcs.json").read_text())["int8"] is True
    exported.runner.policy = RoutingPolicy()
    texts = plain_texts(100)
    for width in WIDTHS:
        scores = [
            [answer.score for answer in OnnxRunner(place, width=width, threads=1).predict(texts)]
            for place in (exported.folder, folder)
        ]
        differences = np.abs(np.subtract(*scores))
        # Processors without an instruction for int8 products saturate in between, which these large weights feel.
        assert 0 < differences.max() < 0.4
        assert differences.mean() < 0.2


# What the policy computes, of NumPy's arrays and of tensors, beside PyTorch's own functions

arrays = st.integers(0, 2**32 - 1).map(
    lambda seed: 4 * np.random.default_rng(seed).standard_normal((3, 7, 4)).astype(np.float32)
)


def blend_of_probabilities(full, narrow, weight, problem):
    """Average two answers' probabilities, and return logits that have them."""
    if problem == "multi_label_classification":
        mean = (1 - weight) * full.sigmoid() + weight * narrow.sigmoid()
        return (mean / (1 - mean)).log()
    return ((1 - weight) * full.softmax(-1) + weight * narrow.softmax(-1)).log()


@given(
    logits=arrays,
    setting=policies,
    problem=st.sampled_from([None, "single_label_classification", "multi_label_classification"]),
)
def test_the_policy_is_the_same_for_arrays_and_tensors(logits, setting, problem):
    full, narrow, scores = logits
    own, names = RoutingPolicy(**setting), ["a", "b", "c", "full"]
    costs = np.linspace(0.2, 1.0, 4)[None].repeat(7, axis=0)
    tensors = [torch.from_numpy(array) for array in (full, narrow, scores)]
    chosen = tensors[2].double().sigmoid() - own.cost_weight * torch.from_numpy(costs)
    expected = (tensors[2] if own.cost_weight == 0 else chosen).argmax(-1).numpy()
    np.testing.assert_array_equal(policy.choose_width(scores, costs, own), expected)
    np.testing.assert_array_equal(policy.choose_width(tensors[2], torch.from_numpy(costs), own).numpy(), expected)
    sigmoid = tensors[1].sigmoid()
    sure = (
        torch.maximum(sigmoid, 1 - sigmoid).amin(-1)
        if problem and "multi" in problem
        else tensors[1].softmax(-1).amax(-1)
    )
    for found in (scores_of.confidence(narrow, problem), scores_of.confidence(tensors[1], problem).numpy()):
        np.testing.assert_allclose(found, sure.numpy(), rtol=1e-5)
    widths = np.arange(7) % 4
    limit = -1.0 if own.escalation_threshold is None else np.float32(own.escalation_threshold)
    below = (widths < 3) & (sure.numpy() < limit)
    np.testing.assert_array_equal(below_threshold(sure.numpy(), widths, own, names), below)
    np.testing.assert_array_equal(below_threshold(sure, torch.from_numpy(widths), own, names), below)
    mixed = full if own.blend == 0 else blend_of_probabilities(*tensors[:2], own.blend, problem).numpy()
    for found in (
        scores_of.blended(full, narrow, own.blend, problem),
        scores_of.blended(*tensors[:2], own.blend, problem).numpy(),
    ):
        if own.blend == 0:
            assert np.array_equal(found, full)
        elif problem == "multi_label_classification":
            np.testing.assert_allclose(found, mixed, rtol=1e-3, atol=1e-3)
        else:
            probabilities = torch.from_numpy(np.asarray(found)).softmax(-1)
            np.testing.assert_allclose(probabilities, np.exp(mixed), rtol=1e-3, atol=1e-5)


# What a user can put right


@pytest.fixture
def broken(exported, tmp_path):
    """Return a copy of the export, to be broken."""
    return shutil.copytree(exported.folder, tmp_path / "broken")


def edit(folder, **values):
    file = folder / "sharcs.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "sharcs.json").unlink(), "is no exported network"),
        (lambda folder: (folder / "sharcs.json").write_text("{"), "no description of an exported network"),
        (lambda folder: (folder / "sharcs.json").write_text("[]"), "no description of an exported network"),
        (lambda folder: edit(folder, format=99), "has format 99"),
        (lambda folder: edit(folder, policy={"unheard_of": 1}), "no description of an exported network"),
        (lambda folder: (folder / "tail-1.onnx").unlink(), r"lacks tail-1\.onnx; export again"),
        (lambda folder: (folder / "tail-1.onnx").write_bytes(b"x"), "can't be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "can't be loaded"),
        (lambda folder: edit(folder, padding={}), "no description of an exported network"),
        (lambda folder: edit(folder, padding={"input_ids": 10**30}), "no description of an exported network"),
        (lambda folder: edit(folder, padding={"input_ids": 10**6}), "graphs are not those that it describes"),
        (lambda folder: edit(folder, padding={"input_ids": 0, "more": 0}), "graphs are not those that it describes"),
        (lambda folder: edit(folder, labels=["a"]), "graphs are not those that it describes"),
        (lambda folder: edit(folder, full_cost=[1.0, 2.0]), "no description of an exported network"),
        (lambda folder: edit(folder, full_cost=[float("nan")] * 3), "no description of an exported network"),
        (lambda folder: edit(folder, promise=3), "no description of an exported network"),
        (lambda folder: edit(folder, calibration=[1]), "no description of an exported network"),
        (lambda folder: edit(folder, max_length=2), "max_length is 2, of which special tokens take 2"),
    ],
)
def test_a_broken_export_is_refused_in_one_line(broken, spoil, says):
    spoil(broken)
    with pytest.raises(InputError, match=says) as refusal:
        list(OnnxRunner(broken).predict([f"w{WORDS - 1}"]))
    assert "\n" not in str(refusal.value)


def test_a_width_that_is_not_there_is_refused(exported):
    with pytest.raises(InputError, match=r"width 0\.3: the exported network has 0\.25, 0\.5, 1"):
        OnnxRunner(exported.folder, width=0.3)


@pytest.mark.parametrize(
    ("providers", "disabled"),
    [(["CPUExecutionProvider"], ["SkipLayerNormFusion"]), (["AzureExecutionProvider", "CPUExecutionProvider"], [])],
)
def test_norms_are_not_fused_with_additions_on_a_cpu(exported, monkeypatch, providers, disabled):
    given = []
    real = onnxruntime.InferenceSession

    def spy(*args, **kwargs):
        given.append(kwargs)
        return real(args[0], providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    OnnxRunner(exported.folder, providers=providers)
    assert given
    assert all((one["providers"], one["disabled_optimizers"]) == (providers, disabled) for one in given)


def test_nothing_is_reported_to_anyone(tmp_path):
    folder = Path(__file__).parents[1] / "records" / "export-1"
    code = f"from sharcs_runtime import OnnxRunner\nprint(next(OnnxRunner({str(folder)!r}).predict(['good'])))"
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path)]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("oil prices rose", "is one text, whose letters would be answered one by one"),
        (["good", None], "number 2 is a NoneType"),
        (["good"] * 40 + [float("nan")], "number 41 is a float"),
        ([("good", "bad", "more")], "number 1 is a tuple"),
        ([("good", 3)], "number 1 is a tuple"),
    ],
)
@pytest.mark.parametrize("window", [8, 2048])
def test_what_is_no_text_is_refused_by_its_number(texts, says, window):
    runner = OnnxRunner(Path(__file__).parents[1] / "records" / "export-1", window=window)
    with pytest.raises(InputError, match=says):
        list(runner.predict(texts))
    with pytest.raises(InputError, match="window 0: have to be at least 1"):
        OnnxRunner(Path(__file__).parents[1] / "records" / "export-1", window=0)
