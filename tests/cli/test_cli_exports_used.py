"""The commands on an export: answered, evaluated and calibrated as its graphs compute, in int8 too."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers.cli import error_message, files_in, read_csv, sharcs, succeeds, write_csv
from helpers.exported import MODEL, export_record
from records.make import ROWS
from sharcs import InputError
from sharcs_runtime import OnnxRunner, RoutingPolicy


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Export the committed model, of which a calibration speaks, in float32, in int8, and with embeddings in it."""
    home = tmp_path_factory.mktemp("exports")
    write_csv(home / "few.csv", read_csv(ROWS)[:60])
    shutil.copytree(MODEL, home / "model")
    succeeds("calibrate", home / "model", "--data", ROWS, "--max-disagreement", 0.1)
    small = {"int8": ("--int8",), "embeddings": ("--int8", "--int8-embeddings")}
    for name, options in {"plain": (), **small}.items():
        (home / f"{name}.said").write_text(export_record(home / "model", home / name, *options).err)
    return home


@pytest.fixture(params=["plain", "int8"])
def folder(request, exports, tmp_path):
    """Copy an export, since calibration writes into it."""
    return shutil.copytree(exports / request.param, tmp_path / request.param)


@pytest.mark.parametrize("options", [(), ("--width", "0.25")])
def test_predictions_are_the_runners(options, folder, exports, tmp_path):
    succeeds("predict", folder, "--data", exports / "few.csv", "--output", tmp_path / "out.csv", *options)
    rows, truth = read_csv(tmp_path / "out.csv"), read_csv(exports / "few.csv")
    runner = OnnxRunner(folder, width=0.25 if options else None)
    expected = list(runner.predict([row["text"] for row in truth]))
    assert [(row["text"], row["label"]) for row in rows] == [(row["text"], row["label"]) for row in truth]
    assert [row["prediction"] for row in rows] == [runner.labels[one.class_index] for one in expected]
    assert [float(row["width"]) for row in rows] == [runner.widths[one.width_index] for one in expected]
    assert [float(row["score"]) for row in rows] == pytest.approx([one.score for one in expected], abs=1e-6)


def test_evaluation_counts_what_the_runner_answers(folder, exports, tmp_path):
    succeeds("evaluate", folder, "--data", exports / "few.csv", "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    truth = read_csv(exports / "few.csv")
    texts = [row["text"] for row in truth]
    runner = OnnxRunner(folder)
    right = np.array([row["label"] == runner.labels[one.class_index] for row, one in
                      zip(truth, runner.predict(texts), strict=True)])  # fmt: skip
    assert found["routed"]["accuracy"] == pytest.approx(right.mean())
    for width, answers in zip(found["widths"], [runner.at_width(width).predict(texts) for width in (0.25, 1.0)],
                              strict=True):  # fmt: skip
        right = [row["label"] == runner.labels[one.class_index] for row, one in zip(truth, answers, strict=True)]
        assert width["accuracy"] == pytest.approx(np.mean(right))


def test_costs_of_an_export_are_those_of_its_model(exports, tmp_path):
    found = []
    for name in ("model", "plain"):
        succeeds("evaluate", exports / name, "--data", exports / "few.csv", "--json", tmp_path / f"{name}.json")
        found.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert found[0].keys() == found[1].keys()
    for one, other in zip(found[0]["curve"], found[1]["curve"], strict=True):
        assert one["accuracy"] == other["accuracy"]
        assert one["flops_ratio"] == pytest.approx(other["flops_ratio"], abs=1e-6)
    assert found[0]["oracle"] == pytest.approx(found[1]["oracle"])
    assert found[0]["routed"] == pytest.approx(found[1]["routed"])


def test_calibration_tests_the_graphs_numbers(folder, exports, tmp_path):
    before = files_in(folder)
    run = succeeds("calibrate", folder, "--data", ROWS, "--max-disagreement", 0.1)
    assert f"in {'int8' if folder.name == 'int8' else 'float32'} on onnxruntime" in run.out
    after = files_in(folder)
    old, new = (json.loads(files.pop("sharcs.json")) for files in (before, after))
    assert after == before
    evidence = new["calibration"]
    assert {**new, "policy": 0, "calibration": 0} == {**old, "policy": 0, "calibration": 0}
    assert (evidence["met"], evidence["rows"], evidence["policy"]) == (True, 400, new["policy"])
    assert (evidence["numbers"], evidence["runtime"]) == (folder.name.replace("plain", "float32"), "onnxruntime")
    # What was observed is what the runner answers by that policy, unlike the full network in the same numbers.
    runner = OnnxRunner(folder)
    assert runner.policy == RoutingPolicy(**new["policy"])
    runner.policy = replace(runner.policy, blend=0.0)  # an average is not the full network's answer
    tested = np.sort(np.random.default_rng(0).permutation(400)[80:])
    texts = [read_csv(ROWS)[index]["text"] for index in tested]
    full = runner.at_width(1.0).predict(texts)
    differ = [one.class_index != other.class_index for one, other in zip(runner.predict(texts), full, strict=True)]
    assert 0 < evidence["disagreement"] < 0.12
    # In int8 a score depends a little on its batch.
    assert evidence["disagreement"] == pytest.approx(np.mean(differ), abs=0.01 if folder.name == "int8" else 1e-9)
    assert runner.config.untested is None


def test_an_export_says_what_its_promise_was_tested_with(exports, tmp_path):
    says = "was tested in float32 on torch, and not in int8 on onnxruntime; run 'sharcs calibrate' on the export"
    assert says in (exports / "int8.said").read_text()
    assert "and not in int8 with embeddings on onnxruntime" in (exports / "embeddings.said").read_text()
    assert "sharcs: note" not in (exports / "plain.said").read_text()
    evidence = json.loads((exports / "int8" / "sharcs.json").read_text())["calibration"]
    assert (evidence["numbers"], evidence["runtime"]) == ("float32", "torch")
    stored = json.loads((exports / "model" / "config.json").read_text())["calibration"]
    assert {"kind", "limit", "confidence", "policy", "bound", "frontier"} < evidence.keys()
    assert evidence == {name: stored[name] for name in evidence}
    for name in ("int8", "plain"):
        run = succeeds("predict", exports / name, "--data", exports / "few.csv", "--output", tmp_path / "out.csv")
        assert (says in run.err) == (name == "int8")
    copied = shutil.copytree(exports / "int8", tmp_path / "calibrated")
    assert says in succeeds("calibrate", copied, "--data", ROWS, "--budget", 0.9).err
    assert "sharcs: note" not in succeeds("evaluate", copied, "--data", exports / "few.csv").err
    # What was tested in int8 was not tested with embeddings in it.
    other = shutil.copytree(exports / "embeddings", tmp_path / "embeddings")
    evidence, policy = (json.loads((copied / "sharcs.json").read_text())[name] for name in ("calibration", "policy"))
    written = json.loads((other / "sharcs.json").read_text()) | {"calibration": evidence, "policy": policy}
    (other / "sharcs.json").write_text(json.dumps(written))
    assert "tested in int8 on onnxruntime, and not in int8 with embeddings" in OnnxRunner(other).config.untested
    # A policy of which nothing was promised has nothing to lose.
    file = copied / "sharcs.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"policy": {"cost_weight": 0.5}}))
    assert OnnxRunner(copied).config.untested is None


def test_milliseconds_of_an_export(exports, tmp_path):
    folder = shutil.copytree(exports / "plain", tmp_path / "plain")
    run = succeeds("calibrate", folder, "--data", ROWS, "--latency-ms", 1000)
    assert "milliseconds of one input at each width" in run.err
    assert json.loads((folder / "sharcs.json").read_text())["calibration"]["kind"] == "latency_ms"


def described(folder, **values):
    """Change the description of an export."""
    file = folder / "sharcs.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_columns_and_pairs_of_the_training_are_remembered(folder, tmp_path):
    assert json.loads((folder / "sharcs.json").read_text())["columns"] == {
        "text": "text", "text_pair": None, "label": "label",
    }  # fmt: skip
    rows = [{"story": row["text"], "more": f"so {row['label']}", "kind": row["label"]} for row in read_csv(ROWS)[:30]]
    data = write_csv(tmp_path / "renamed.csv", rows)
    described(folder, columns={"text": "story", "text_pair": "more", "label": "kind"})
    succeeds("predict", folder, "--data", data, "--output", tmp_path / "out.csv")
    runner = OnnxRunner(folder)
    expected = list(runner.predict([(row["story"], row["more"]) for row in rows]))
    assert [row["prediction"] for row in read_csv(tmp_path / "out.csv")] == [
        runner.labels[one.class_index] for one in expected
    ]
    succeeds("evaluate", folder, "--data", data, "--json", tmp_path / "found.json")
    right = [row["kind"] == runner.labels[one.class_index] for row, one in zip(rows, expected, strict=True)]
    assert json.loads((tmp_path / "found.json").read_text())["routed"]["accuracy"] == pytest.approx(np.mean(right))
    described(folder, columns={"text": "story", "text_pair": None, "label": "kind"})
    message = error_message(sharcs("evaluate", folder, "--data", data, "--text-pair-column", "more"))
    assert "has text pairs, but the model was trained on single texts" in message


def test_what_an_export_can_t_do_is_refused_before_the_work(exports, tmp_path):
    plain, data = exports / "plain", exports / "few.csv"
    before = files_in(exports)
    wrong = ("--data", data, "--output", tmp_path / "new.csv", "--width", 0.3)
    assert "width 0.3: the exported network has 0.25, 1" in error_message(sharcs("predict", plain, *wrong))
    assert "width 0.3: the exported network has" in error_message(
        sharcs("evaluate", plain, "--data", data, "--width", 0.3)
    )
    page = ("--output", tmp_path / "new.html")
    for arguments in (("export", plain, *page), ("report", plain, "--data", data, *page),
                      ("benchmark", plain, "--data", data)):  # fmt: skip
        message = error_message(sharcs(*arguments))
        assert "is an export; give the directory that it was exported from" in message
    assert files_in(exports) == before
    assert [path.name for path in tmp_path.iterdir()] == []
    broken = shutil.copytree(plain, tmp_path / "broken")
    content = json.loads((broken / "sharcs.json").read_text())
    described(broken, columns={"rows": 1})
    assert "its columns are" in error_message(sharcs("predict", broken, *wrong[:4]))
    described(broken, columns=None, policy={"start": "unheard of"})
    with pytest.raises(InputError, match="unheard of"):
        OnnxRunner(broken)
    narrow, full = content["subnetworks"]
    described(broken, policy=content["policy"], subnetworks=[narrow, {**full, "cost_after": {}}])
    assert "what escalating costs; export again" in error_message(sharcs("evaluate", broken, "--data", data))
    described(broken, trunk=None, subnetworks=[narrow])
    assert "holds width-25 alone" in error_message(sharcs("evaluate", broken, "--data", data))
    assert "holds width-25 alone" in error_message(sharcs("calibrate", broken, "--data", data, "--budget", 0.5))


def test_a_runner_shares_its_graphs_with_one_at_a_width(exports):
    runner = OnnxRunner(exports / "plain", threads=1)
    texts = [row["text"] for row in read_csv(exports / "few.csv")]
    expected = list(OnnxRunner(exports / "plain", width=0.25, threads=1).predict(texts))
    narrow = runner.at_width("width-25")
    assert list(narrow.predict(texts)) == expected
    assert (narrow.width, runner.width) == (0.25, None)
    assert narrow.at_width(1.0).width == 1.0
    with pytest.raises(InputError, match=r"width 1\.0: this runner forces 0\.25"):
        OnnxRunner(exports / "plain", width=0.25).at_width(1.0)
    with pytest.raises(InputError, match=r"this runner forces 0\.25; make one without a width"):
        next(OnnxRunner(exports / "plain", width=0.25).run_all(texts))
