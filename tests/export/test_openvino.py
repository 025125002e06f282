"""Exports for OpenVINO beside PyTorch and ONNX Runtime: answers, threads, int8's scales, what is refused and sent."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from helpers.cli import error_message, read_csv, sharcs, succeeds
from helpers.exported import MODEL, export_record
from helpers.front import TEXTS, WORDS, front_model, word_tokenizer
from records.make import ROWS
from sharcs import InferenceEngine, InputError, RoutingPolicy
from sharcs.export import export_model, openvino
from sharcs_runtime import OnnxRunner
from sharcs_runtime.sessions import OnnxSession, OpenVinoSession

NAMES = ["recurrent", "compact", "width-25", "full"]
INT8 = ("--runtime", "openvino", "--int8", "--data", ROWS)


def logits_of(folder, texts, **options):
    """Say what each sub-network answers, ``[networks, texts, labels]``."""
    found = list(OnnxRunner(folder, threads=1, **options).run_all(texts))
    order = np.argsort(np.concatenate([each.rows for each in found]))
    return np.concatenate([each.logits for each in found], axis=1)[:, order]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network with two sub-networks in front, exported for OpenVINO, with the truth of PyTorch one by one."""
    folder = tmp_path_factory.mktemp("openvino")
    tokenizer = word_tokenizer(folder)
    model = front_model(pairs=False, labels=3)
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt"), widths="all").width_logits[:, 0] for text in TEXTS]
    truth = torch.stack(alone, dim=1)
    limits = {
        name: float(truth[at].softmax(-1).amax(-1).sort().values[44:46].mean()) for at, name in enumerate(NAMES[:-1])
    }
    model.config.policy = RoutingPolicy(start="recurrent", escalation_threshold=limits).to_dict()
    for name, options in {"float32": {}, "int8": {"int8": True, "texts": TEXTS}}.items():
        export_model(model, tokenizer, folder / name, runtime="openvino", **options)
    return SimpleNamespace(model=model, tokenizer=tokenizer, folder=folder, truth=truth.numpy())


def test_answers_are_those_of_pytorch_one_by_one(exported):
    folder = exported.folder / "float32"
    np.testing.assert_allclose(logits_of(folder, TEXTS, batch_tokens=64), exported.truth, atol=1e-4)
    expected = list(InferenceEngine(exported.model, exported.tokenizer).predict(TEXTS))
    assert {each.width_index for each in expected} == {0, 1, 2, 3}
    for one, other in zip(OnnxRunner(folder).predict(TEXTS), expected, strict=True):
        assert (one.class_index, one.width_index) == (other.class_index, other.width_index)


def test_each_graph_has_the_runtime_that_suits_it(exported):
    for name in ("float32", "int8"):
        described = json.loads((exported.folder / name / "sharcs.json").read_text())
        named = {entry["name"]: entry["runtime"] for entry in described["subnetworks"]}
        assert (described["format"], described["trunk"]["runtime"]) == (3, "openvino")
        assert named == dict(zip(NAMES, ["onnxruntime", *["openvino"] * 3], strict=True))
        runner = OnnxRunner(exported.folder / name)
        kinds = [type(runner._tail_sessions[index]) for index in range(4)]
        assert [type(runner._trunk_session), *kinds] == [OpenVinoSession, OnnxSession, *[OpenVinoSession] * 3]
        assert runner.config.runtime == "openvino"
        assert runner.version == __import__("openvino").__version__.split("-")[0]


def test_int8_answers_about_the_same_whatever_a_text_is_batched_with(exported):
    folder = exported.folder / "int8"
    found = logits_of(folder, TEXTS)
    differences = np.abs(found - exported.truth)[1:]
    assert 0 < differences.mean() < 0.05 * np.abs(exported.truth).mean()
    alone = np.concatenate([logits_of(folder, [text]) for text in TEXTS[:20]], axis=1)
    # Scales are fixed, so that others in a batch move nothing; ONNX Runtime's recurrent network has none in int8.
    np.testing.assert_allclose(alone[1:], found[1:, :20], atol=1e-4)
    for name in ("trunk", "front-1", "tail-1"):
        graph = onnx.load(folder / f"{name}.onnx").graph
        assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
        # Twice a product of 8 by 7 bits is what 16 bits hold, in which processors without VNNI add.
        tables = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        scaled = [node for node in graph.node if node.op_type == "DequantizeLinear"]
        weights = {node.output[0]: tables.get(node.input[0]) for node in scaled}
        used = [weights.get(name) for node in graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input]
        assert 32 < max(np.abs(one.astype(int)).max() for one in used if one is not None) <= 64


def test_classifiers_stay_in_single_precision(exported):
    for name in ("front-1", "tail-0", "tail-1"):
        graph = onnx.load(exported.folder / "int8" / f"{name}.onnx").graph
        made = {output: node.op_type for node in graph.node for output in node.output}
        [classifier] = [node for node in graph.node if "logits" in node.output]
        assert "DequantizeLinear" not in {made.get(one) for one in classifier.input}


def test_many_threads_share_a_session(exported):
    session = OpenVinoSession(exported.folder / "float32" / "front-1.onnx", 1)
    draw = np.random.default_rng(0)
    ones = np.ones((300, 24), np.int64)
    feeds = [{"input_ids": draw.integers(5, 64, ones.shape), "attention_mask": ones, "token_type_ids": 0 * ones}
             for _ in range(8)]  # fmt: skip
    expected = [session.run(["logits"], feed)[0] for feed in feeds]
    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(lambda n: session.run(["logits"], feeds[n % 8])[0], range(200))):
            np.testing.assert_array_equal(found, expected[number % 8])


def test_threads_are_tied_to_no_processor_and_numbers_stay_in_single_precision(exported):
    compiled = OpenVinoSession(exported.folder / "float32" / "front-1.onnx", 1)._compiled
    found = [compiled.get_property(name) for name in ("ENABLE_CPU_PINNING", "INFERENCE_NUM_THREADS")]
    assert found == [False, 1]
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_what_a_session_returned_stays_as_it_is(exported):
    session = OpenVinoSession(exported.folder / "float32" / "front-1.onnx", 1)
    feed = {"input_ids": np.array([[2, 7, 3]]), "attention_mask": np.ones((1, 3), np.int64)}
    feed["token_type_ids"] = np.zeros((1, 3), np.int64)
    first = session.run(["logits"], feed)[0]
    kept = first.copy()
    session.run(["logits"], feed | {"input_ids": np.array([[2, 9, 3]])})
    np.testing.assert_array_equal(first, kept)


def test_scales_are_read_off_texts_from_all_over_the_table(exported):
    texts = [WORDS[0]] * 900 + [" ".join(WORDS[:9])] * 100
    feeds = openvino.sample_feeds(texts, exported.tokenizer, 24, exported.folder / "float32" / "trunk.onnx")
    assert len(feeds) == openvino.SAMPLES
    assert sum(feed["input_ids"].shape == (1, 11) for feed in feeds) == pytest.approx(openvino.SAMPLES / 10, abs=1)
    with torch.no_grad():
        hidden = exported.model.run_trunk(**exported.tokenizer(texts[-1], return_tensors="pt")).hidden
    np.testing.assert_allclose(feeds[-1]["hidden"], hidden, atol=1e-4)
    assert len(openvino.sample_feeds(texts[:5], exported.tokenizer, 24, None)) == 5


def test_a_graph_that_openvino_computes_otherwise_is_refused(exported, tmp_path):
    run = OpenVinoSession.run
    with (
        mock.patch.object(OpenVinoSession, "run", lambda *given: [found + 1 for found in run(*given)]),
        pytest.raises(InputError, match=r"^trunk: its router_logits on openvino differ from PyTorch's by 1"),
    ):
        export_model(exported.model, exported.tokenizer, tmp_path / "out", runtime="openvino")
    assert list(tmp_path.iterdir()) == []


def test_the_commands_use_such_an_export(tmp_path):
    export_record(MODEL, tmp_path / "export", *INT8)
    runner = OnnxRunner(tmp_path / "export")
    assert (runner.config.numbers, runner.config.runtime) == ("int8", "openvino")
    succeeds("calibrate", tmp_path / "export", "--data", ROWS, "--max-disagreement", 0.3)
    assert OnnxRunner(tmp_path / "export").config.untested is None
    succeeds("predict", tmp_path / "export", "--data", ROWS, "--output", tmp_path / "answers.csv")
    answers = [row["prediction"] for row in read_csv(tmp_path / "answers.csv")]
    expected = [runner.labels[each.class_index] for each in OnnxRunner(tmp_path / "export").predict(
        [row["text"] for row in read_csv(ROWS)])]  # fmt: skip
    assert answers == expected
    # The same numbers of another runtime are other numbers.
    description = json.loads((tmp_path / "export" / "sharcs.json").read_text())
    for entry in (description["trunk"], *description["subnetworks"]):
        entry["runtime"] = "onnxruntime"
    (tmp_path / "export" / "sharcs.json").write_text(json.dumps(description))
    says = "tested in int8 on openvino, and not in int8 on onnxruntime"
    assert says in OnnxRunner(tmp_path / "export").config.untested


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--runtime", "tensorrt"), "--runtime tensorrt: has to be onnxruntime or openvino"),
        (("--runtime", "openvino", "--int8"), "--int8 with --runtime openvino: reads scales off texts like"),
        (("--runtime", "openvino", "--data", ROWS), f"--data {ROWS}: is for --int8 with --runtime openvino"),
        (("--int8", "--data", ROWS), f"--data {ROWS}: is for --int8 with --runtime openvino; leave it out"),
        ((*INT8, "--int8-embeddings"), "--int8-embeddings: OpenVINO's int8 has its tables in it by itself"),
        ((*INT8, "--format", "optimum", "--width", "1.0"), "--runtime openvino: is for --format onnx"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(tmp_path, options, says):
    run = sharcs("export", tmp_path / "nothing", "--output", tmp_path / "out", *options)
    assert error_message(run).startswith(says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"runtime": "tensorrt"}, "`runtime` tensorrt"),
        ({"runtime": "openvino", "int8": True}, "`int8` with `runtime` openvino"),
        ({"runtime": "openvino", "int8": True, "texts": []}, "`int8` with `runtime` openvino"),
        ({"texts": TEXTS}, "`texts`: are for"),
    ],
)
def test_python_is_refused_the_same(exported, tmp_path, options, says):
    with pytest.raises(InputError, match=f"^{says}"):
        export_model(exported.model, exported.tokenizer, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[2].split(","):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
from sharcs_runtime import OnnxRunner
print(len(list(OnnxRunner(sys.argv[1]).predict(["a b", "c"]))))
"""


def test_it_needs_openvino_and_no_torch(exported):
    def run(missing):
        command = [sys.executable, "-c", WITHOUT, exported.folder / "int8", missing]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("torch,transformers,sharcs,onnx,nncf,scipy,sklearn").stdout == "2\n"
    says = "install the extra openvino: pip install 'sharcs[openvino]'"
    assert run("openvino").stderr.strip().endswith(says)


def test_an_unknown_runtime_is_no_description(exported, tmp_path):
    folder = shutil.copytree(exported.folder / "float32", tmp_path / "other")
    description = json.loads((folder / "sharcs.json").read_text())
    description["trunk"]["runtime"] = "tensorrt"
    (folder / "sharcs.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"is no description of an exported network \(graphs for \['tensorrt'\]"):
        OnnxRunner(folder)


SENT = """
import os, socket, sys
assert "pytest" not in sys.modules  # with which NNCF sends nothing by itself
def refuse(*_): raise AssertionError("a connection")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from sharcs.export.openvino import check_runtime
check_runtime("openvino", int8=True, int8_embeddings=False, texts=["a"])
from nncf.telemetry import telemetry
print(type(telemetry).__name__, os.environ.get("NNCF_CI"))
"""


def test_nothing_is_sent(tmp_path):
    run = subprocess.run([sys.executable, "-c", SENT], capture_output=True, text=True, check=True)
    assert run.stdout == "MagicMock None\n"
