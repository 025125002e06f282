"""Embeddings in int8: rows against a calculation in NumPy, what stays as it is, and the option of the command."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import AutoTokenizer

from helpers.cli import error_message, read_csv, sharcs
from helpers.exported import MODEL, export_record
from helpers.front import TEXTS, front_model, word_tokenizer
from records.make import ROWS
from sharcs import InputError, SharcsForSequenceClassification
from sharcs.export.bundle import export_model
from sharcs.export.int8 import quantise_graph
from sharcs_runtime import OnnxRunner

WORDS, HIDDEN = 9, 5


def float_tables(file):
    """Name the matrices of a graph that are in single precision."""
    found = onnx.load(file).graph.initializer
    return {one.name for one in found if one.data_type == TensorProto.FLOAT and len(one.dims) == 2}


def save_lookups(file):
    """Save a graph with a table that is only looked up in, and four that are not only that, or have a column."""
    draw = np.random.default_rng(0)
    scale = 10.0 ** np.arange(-3, WORDS - 3)[:, None]  # as rare words beside frequent ones, and more so
    words = (draw.standard_normal((WORDS, HIDDEN)) * scale).astype(np.float32)
    words[4] = 0
    tables = {
        "words": words,
        "tied": draw.standard_normal((WORDS, HIDDEN)).astype(np.float32),
        "columns": draw.standard_normal((HIDDEN, WORDS)).astype(np.float32),
        "inside": draw.standard_normal((WORDS, HIDDEN)).astype(np.float32),
        "single": draw.standard_normal((WORDS, 1)).astype(np.float32),
    }
    branch = helper.make_graph(
        [helper.make_node("Gather", ["inside", "ids"], ["branch"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["found"]),
        helper.make_node("Gather", ["words", "ids"], ["again"], axis=0),
        helper.make_node("Gather", ["tied", "ids"], ["of_tied"]),
        helper.make_node("Identity", ["tied"], ["whole"]),
        helper.make_node("Gather", ["columns", "ids"], ["of_columns"], axis=1),
        helper.make_node("Gather", ["inside", "ids"], ["of_inside"]),
        helper.make_node("If", ["yes"], ["of_branch"], then_branch=branch, else_branch=branch),
        helper.make_node("Gather", ["single", "ids"], ["of_single"]),
    ]
    outputs = [name for node in nodes for name in node.output]
    graph = helper.make_graph(
        nodes,
        "lookups",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.array(value), name) for name, value in [*tables.items(), ("yes", True)]],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    return tables, outputs


def test_a_row_has_a_scale_of_its_own_and_other_tables_stay(tmp_path):
    file = tmp_path / "lookups.onnx"
    tables, outputs = save_lookups(file)
    ids = np.array([[0, 3, 4], [8, 1, 0]])
    before = dict(zip(outputs, onnxruntime.InferenceSession(file).run(outputs, {"ids": ids}), strict=True))
    with np.errstate(all="raise"):  # no number is made of the row of zeros that a processor may choose
        quantise_graph(file, embeddings=True)
    after = dict(zip(outputs, onnxruntime.InferenceSession(file).run(outputs, {"ids": ids}), strict=True))
    assert float_tables(file) - {"words.scale"} == {"tied", "columns", "inside", "single"}
    for name in set(outputs) - {"found", "again"}:
        np.testing.assert_array_equal(after[name], before[name])
    for place in np.ndindex(ids.shape):
        row = tables["words"][ids[place]].astype(np.float64)
        steps = np.abs(row).max() / 127 or 1.0
        np.testing.assert_allclose(after["found"][place], np.round(row / steps) * steps, rtol=1e-6)
    np.testing.assert_array_equal(after["again"], after["found"])


def test_without_embeddings_every_table_stays(tmp_path):
    file = tmp_path / "lookups.onnx"
    tables, _ = save_lookups(file)
    quantise_graph(file)
    assert float_tables(file) == {*tables}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Export the committed model in float32, in int8, and in int8 with its embeddings."""
    home = tmp_path_factory.mktemp("int8")
    settings = {"plain": (), "int8": ("--int8",), "embeddings": ("--int8", "--int8-embeddings")}
    for name, options in settings.items():
        export_record(MODEL, home / name, *options)
    return home


def test_embeddings_of_an_export_are_in_int8_and_named(exports):
    vocabulary, hidden = 42, 32
    counted = {}
    for name in ("plain", "int8", "embeddings"):
        tables = [one for one in onnx.load(exports / name / "trunk.onnx").graph.initializer if len(one.dims) == 2]
        counted[name] = [one.data_type for one in tables if tuple(one.dims) == (vocabulary, hidden)]
    assert counted == {"plain": [TensorProto.FLOAT], "int8": [TensorProto.FLOAT], "embeddings": [TensorProto.INT8]}
    described = json.loads((exports / "embeddings" / "sharcs.json").read_text())
    assert (described["int8"], described["int8_embeddings"]) == (True, True)
    named = {name: OnnxRunner(exports / name).config.numbers for name in counted}
    assert named == {"plain": "float32", "int8": "int8", "embeddings": "int8 with embeddings"}


def test_embeddings_in_int8_move_answers_less_than_the_rest_in_int8(exports):
    texts = [row["text"] for row in read_csv(ROWS)[:100]]
    logits = {
        name: np.concatenate([batch.logits[-1] for batch in OnnxRunner(exports / name, threads=1).run_all(texts)])
        for name in ("plain", "int8", "embeddings")
    }
    of_products = np.abs(logits["int8"] - logits["plain"]).mean()
    of_both = np.abs(logits["embeddings"] - logits["plain"]).mean()
    assert np.abs(logits["embeddings"] - logits["int8"]).mean() > 0
    assert of_both < 2 * of_products


def test_lexical_and_recurrent_networks_answer_as_in_single_precision_and_classifiers_stay(tmp_path):
    model = front_model(front=("lexical", "recurrent"), labels=3)
    with torch.no_grad():
        model.tail.front[0].vectors.weight[7] *= 100  # a rare token's vector, which would set the scale of a batch
    tokenizer = word_tokenizer(tmp_path)
    found = {}
    for name, options in {"float32": {}, "int8": {"int8": True}}.items():
        export_model(model, tokenizer, tmp_path / name, **options)
        batches = list(OnnxRunner(tmp_path / name, threads=1).run_all([*TEXTS, "w2"]))
        found[name] = np.concatenate([batch.logits for batch in batches], axis=1)
    np.testing.assert_allclose(found["int8"][:2], found["float32"][:2], atol=1e-5)
    assert np.abs(found["int8"][2:] - found["float32"][2:]).max() > 1e-4
    for name in ("front-0", "front-1", "tail-0", "tail-1"):
        assert any("classifier" in table for table in float_tables(tmp_path / "int8" / f"{name}.onnx")), name


def test_embeddings_alone_are_refused_before_any_work(tmp_path):
    run = sharcs("export", tmp_path / "nothing", "--output", tmp_path / "out", "--int8-embeddings")
    assert error_message(run) == "--int8-embeddings: goes on from --int8; give both"
    model, tokenizer = SharcsForSequenceClassification.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    with pytest.raises(InputError, match=r"^`int8_embeddings`: goes on from `int8`"), torch.no_grad():
        export_model(model, tokenizer, tmp_path / "out", int8_embeddings=True)
    assert list(tmp_path.iterdir()) == []
