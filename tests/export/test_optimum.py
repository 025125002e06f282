"""One sub-network for optimum and text-embeddings-inference: the names that both use, against the plain model.

``make test-optimum`` has optimum itself read the same, in an environment of its own.
"""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from helpers.cli import error_message, files_in, sharcs, succeeds
from helpers.encoders import load_plain, load_routed, save_plain
from helpers.exported import MODEL
from helpers.front import front_model
from inference.test_engine import LONGEST, make_tokenizer
from sharcs import InputError, SharcsForSequenceClassification
from sharcs.data.named import minilm_path
from sharcs.export import graphs
from sharcs.export.optimum import export_optimum, note_for

OPTIMUM = os.environ.get("SHARCS_OPTIMUM", sys.executable if util.find_spec("optimum") else None)
FILES = ["config.json", "model.onnx", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"]
TEXTS = ["w1 w2 w3 w4", "w7", "w9 w11 w30 w31 w2 w5 w5"]
PAIRS = [["w1 w2 w3", "w4"], ["w7", "w7 w8 w9 w10 w11"], ["w5 w6", "w6"]]


def answers_of(folder, texts):
    """Tokenise with what lies in the directory, and run the graph by the names that both readers use."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = list(map(list, zip(*texts, strict=True))) if isinstance(texts[0], list) else [texts]
    batch = tokenizer(*texts, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(["logits"], {given.name: batch[given.name] for given in session.get_inputs()})[0]


@torch.no_grad()
def truth_of(model, tokenizer, texts, **options):
    """Ask a model of torch, one text after the other, so that nothing is padded."""
    rows = [tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt") for text in texts]
    return np.concatenate([model(**row, **options).logits.numpy() for row in rows])


def names_of(folder):
    """Name the inputs and outputs of the graph, in order."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return [[one.name for one in side] for side in (session.get_inputs(), session.get_outputs())]


@pytest.mark.parametrize(("family", "segments"), [("bert", True), ("distilbert", False)])
def test_the_full_network_answers_as_the_plain_model_does(tmp_path, family, segments):
    plain_path = save_plain(family, tmp_path / "plain")
    model, plain = load_routed(plain_path), load_plain(plain_path)
    tokenizer = make_tokenizer(plain.config.pad_token_id, segments)
    tokenizer.padding_side = "left"  # which no text is padded on here
    out = tmp_path / "out"
    export_optimum(model, tokenizer, out, "full")
    assert sorted(files_in(out)) == FILES
    # https://huggingface.co/docs/optimum-onnx, and backends/ort/src/lib.rs of text-embeddings-inference.
    inputs = ["input_ids", "attention_mask", *["token_type_ids"] * segments]
    assert names_of(out) == [inputs, ["logits"]]
    given = PAIRS if segments else TEXTS
    np.testing.assert_allclose(answers_of(out, given), truth_of(plain, tokenizer, given), atol=2e-5, rtol=1e-4)
    config = AutoConfig.from_pretrained(out)
    assert type(config) is type(plain.config)
    assert config.architectures == [type(plain).__name__]
    assert (config.id2label, config.label2id) == (plain.config.id2label, plain.config.label2id)
    assert config.problem_type == "single_label_classification"
    assert (
        config.to_dict().items()
        >= {
            name: value
            for name, value in plain.config.to_dict().items()
            if not name.startswith(("_", "problem_type"))
        }.items()
    )
    # What text-embeddings-inference reads of each configuration, whatever the family calls it.
    written = json.loads((out / "config.json").read_text())
    assert (written["hidden_size"], written["num_hidden_layers"], written["max_position_embeddings"]) == (32, 3, 40)
    assert "_name_or_path" not in written
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert (settings["padding_side"], settings["model_max_length"]) == ("right", LONGEST)
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"  # which transformers 4 knows, too
    assert json.loads((out / "sentence_bert_config.json").read_text()) == {"max_seq_length": LONGEST}


def test_special_tokens_and_words_are_those_of_the_tokenizer(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    export_optimum(SharcsForSequenceClassification.from_pretrained(MODEL), tokenizer, tmp_path / "out", 1.0)
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert read.special_tokens_map == tokenizer.special_tokens_map
    texts = ["The GOOD film [SEP] and more", "", "never ending good film " * 9]
    assert read(texts, truncation=True)["input_ids"] == tokenizer(texts, truncation=True)["input_ids"]
    assert read.model_max_length == tokenizer.model_max_length
    assert list(read("good")) == list(tokenizer("good"))


@pytest.mark.parametrize(
    "name",
    ["recurrent", "width-25", *(pytest.param(name, marks=pytest.mark.extended) for name in ("lexical", "compact"))],
)
def test_every_sub_network_is_written_as_it_answers(tmp_path, name):
    model = front_model(front=("lexical", "recurrent", "compact"), pairs=True)
    tokenizer = make_tokenizer(0, segments=True)
    export_optimum(model, tokenizer, tmp_path / "out", name)
    assert names_of(tmp_path / "out") == [["input_ids", "attention_mask", "token_type_ids"], ["logits"]]
    expected = truth_of(model, tokenizer, PAIRS, width=0.25 if name == "width-25" else name)
    np.testing.assert_allclose(answers_of(tmp_path / "out", PAIRS), expected, atol=2e-5, rtol=1e-4)
    provenance = json.loads((tmp_path / "out" / "config.json").read_text())["sharcs"]
    assert (provenance["sub_network"], provenance["numbers"]) == (name, "float32")


@pytest.mark.parametrize(
    ("problem_type", "says"), [("multi_label_classification", "raw_scores"), ("regression", "ranks pairs")]
)
def test_the_readers_are_told_what_kind_of_answer_it_is(tmp_path, problem_type, says):
    save_plain("bert", tmp_path / "plain")
    labels = 1 if problem_type == "regression" else 3
    model = SharcsForSequenceClassification.from_encoder(
        tmp_path / "plain", num_labels=labels, problem_type=problem_type, ignore_mismatched_sizes=True
    )
    export_optimum(model, make_tokenizer(0), tmp_path / "out", "full")
    assert AutoConfig.from_pretrained(tmp_path / "out").problem_type == problem_type
    assert answers_of(tmp_path / "out", TEXTS).shape == (len(TEXTS), labels)
    assert says in note_for(problem_type)
    assert note_for("single_label_classification") is None


def test_the_command_in_int8_names_the_sub_network(tmp_path):
    out = tmp_path / "out"
    options = ("--format", "optimum", "--sub-network", "width-25", "--int8", "--int8-embeddings")
    run = succeeds("export", MODEL, "--output", out, *options)
    assert "note: the sizes in config.json are the full network's, and the graph is width-25" in run.err
    assert sorted(files_in(tmp_path)) == ["out", *(f"out/{name}" for name in FILES)]
    assert json.loads((out / "config.json").read_text())["sharcs"]["numbers"] == "int8 with embeddings"
    types = {one.data_type for one in onnx.load(out / "model.onnx").graph.initializer if tuple(one.dims) == (42, 32)}
    assert types == {onnx.TensorProto.INT8}
    texts = ["good film", "a bad town by the sea"]
    model = SharcsForSequenceClassification.from_pretrained(MODEL).eval()
    expected = truth_of(model, AutoTokenizer.from_pretrained(MODEL), texts, width=0.25)
    assert 0 < np.abs(answers_of(out, texts) - expected).max() < 0.3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "--format optimum: is one sub-network; name it with --sub-network full"),
        (("--sub-network", "compact"), "compact"),
        (("--width", 0.3), "0.3"),
        (("--sub-network", "full", "--int8-embeddings"), "--int8-embeddings: goes on from --int8; give both"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, options, says):
    assert says in error_message(
        sharcs("export", MODEL, "--output", tmp_path / "out", "--format", "optimum", *options)
    )
    assert list(tmp_path.iterdir()) == []


def test_other_tokenizers_and_answers_in_tokens_are_refused(tmp_path):
    model = SharcsForSequenceClassification.from_pretrained(MODEL)
    with pytest.raises(InputError, match="runs in Python only"):
        export_optimum(model, object(), tmp_path / "out", 1.0)
    model.config.problem_type = "token_classification"
    with pytest.raises(InputError, match="has not one answer for each input"):
        export_optimum(model, AutoTokenizer.from_pretrained(MODEL), tmp_path / "out", 1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_can_not_be_given_a_mask_is_refused(tmp_path, monkeypatch):
    def without_mask(part, example, file):
        value = onnx.helper.make_tensor_value_info
        ids, logits = value("input_ids", 7, ["batch", "tokens"]), value("logits", 7, ["batch", "tokens"])
        node = onnx.helper.make_node("Identity", ["input_ids"], ["logits"])
        opsets = [onnx.helper.make_opsetid("", 18)]
        graph = onnx.helper.make_graph([node], "graph", [ids], [logits])
        onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), file)

    monkeypatch.setattr(graphs, "write_graph", without_mask)
    monkeypatch.setattr(graphs, "check_graph", lambda *_: None)
    run = sharcs("export", MODEL, "--output", tmp_path / "out", "--format", "optimum", "--sub-network", "full")
    assert "takes no attention_mask" in error_message(run)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_computes_something_else_leaves_nothing(tmp_path, monkeypatch):
    write = graphs.write_graph

    def other(part, example, file):
        part.model.encoder.classifier.bias.data += 1
        write(part, example, file)
        part.model.encoder.classifier.bias.data -= 1

    monkeypatch.setattr(graphs, "write_graph", other)
    run = sharcs("export", MODEL, "--output", tmp_path / "out", "--format", "optimum", "--sub-network", "full")
    assert "differ from PyTorch's by 1" in error_message(run)
    assert list(tmp_path.iterdir()) == []


def test_weights_beside_a_large_graph_have_the_name_that_is_asked_for(tmp_path, monkeypatch):
    write = graphs.write_graph

    def as_if_large(part, example, file):
        write(part, example, file)
        onnx.save(
            onnx.load(file), file, save_as_external_data=True, location=f"{file.name}.data", size_threshold=1000
        )

    monkeypatch.setattr(graphs, "write_graph", as_if_large)
    model, tokenizer = SharcsForSequenceClassification.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    export_optimum(model, tokenizer, tmp_path / "out", 1.0)
    assert sorted(files_in(tmp_path / "out")) == sorted([*FILES, "model.onnx_data"])
    expected = truth_of(model.eval(), tokenizer, ["good film"], width=1.0)
    np.testing.assert_allclose(answers_of(tmp_path / "out", ["good film"]), expected, atol=1e-5)


@pytest.mark.skipif(OPTIMUM is None, reason="optimum is installed in an environment of its own: make test-optimum")
@pytest.mark.parametrize("which", ["pairs", "roberta", "minilm"])
def test_optimum_itself_gives_the_plain_models_answers(tmp_path, which):
    if which == "minilm":
        plain_path, texts = tmp_path / "plain", ["Stocks fell.", "The harvest of wheat was larger than last year's."]
        load_plain(minilm_path(), num_labels=4).save_pretrained(plain_path)  # with a head, drawn at random
        tokenizer = AutoTokenizer.from_pretrained(minilm_path())
    else:
        family = "bert" if which == "pairs" else which
        plain_path, texts = save_plain(family, tmp_path / "plain"), PAIRS if which == "pairs" else TEXTS
        tokenizer = make_tokenizer(AutoConfig.from_pretrained(plain_path).pad_token_id, segments=which == "pairs")
    model, plain = load_routed(plain_path), load_plain(plain_path)
    export_optimum(model, tokenizer, tmp_path / "out", "full")
    script = Path(__file__).parents[1] / "helpers" / "optimum_reads.py"
    command = [OPTIMUM, script, tmp_path / "out"]
    run = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    expected = truth_of(plain, tokenizer, texts)
    np.testing.assert_allclose(found["logits"], expected, atol=2e-5, rtol=1e-4)
    chosen = [plain.config.id2label[int(index)] for index in expected.argmax(axis=1)]
    assert [answer["label"] for answer in found["answers"]] == chosen
    scores = torch.tensor(expected).softmax(dim=1).amax(dim=1).tolist()
    assert [answer["score"] for answer in found["answers"]] == pytest.approx(scores, abs=1e-5)
