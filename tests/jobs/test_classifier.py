"""The classifier of scikit-learn's form: the training job's own numbers, and what scikit-learn asks of it."""

import json
import pickle
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from transformers import AutoModelForSequenceClassification, TrainerCallback
from transformers.utils import hub as transformers_hub

from helpers.cli import read_csv, save_encoder, sharcs, succeeds, toy_rows, write_csv
from sharcs import Classifier, InputError
from sharcs.calibration.choice import Constraint
from sharcs.calibration.promise import halves
from sharcs.jobs.work import FEWEST_STEPS, FRONT_EPOCHS, usual_epochs
from sharcs.stored import Evidence
from sharcs_runtime import OnnxRunner

QUICK = {"sub_networks": ("recurrent", "full"), "epochs": 1, "learning_rate": 3e-3, "max_length": 16}


def texts_and_labels(count, seed=0):
    rows = toy_rows(count, seed)
    return [row["text"] for row in rows], [row["label"] for row in rows]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_encoder(tmp_path_factory.mktemp("encoder"), layers=2))


@pytest.fixture(scope="module")
def fitted(encoder):
    texts, labels = texts_and_labels(300)
    return Classifier(encoder, **QUICK).fit(texts, labels)


@pytest.fixture
def copied(fitted):
    """A copy that a test may change."""
    return pickle.loads(pickle.dumps(fitted))


def test_it_is_what_the_command_trains(fitted, encoder, tmp_path):
    write_csv(tmp_path / "train.csv", toy_rows(300))
    write_csv(tmp_path / "new.csv", toy_rows(50, seed=1))
    succeeds(
        "train", "--data", tmp_path / "train.csv", "--model", encoder, "--output", tmp_path / "model", "--epochs", 1,
        "--learning-rate", 3e-3, "--max-length", 16, "--sub-networks", "recurrent,full",
    )  # fmt: skip
    succeeds("predict", tmp_path / "model", "--data", tmp_path / "new.csv", "--output", tmp_path / "out.csv")
    rows = read_csv(tmp_path / "out.csv")
    texts, _ = texts_and_labels(50, seed=1)
    assert fitted.predict(texts).tolist() == [row["prediction"] for row in rows]
    assert fitted.predict_proba(texts).max(axis=1) == pytest.approx([float(row["score"]) for row in rows], abs=1e-6)
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.calibration_ == fitted.calibration_
    assert np.array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))


def test_classes_come_out_in_their_own_type_and_order(encoder):
    texts, labels = texts_and_labels(120)
    senses = sorted(set(labels))
    numbers = dict(zip(senses, (30, 4, 5, 6), strict=False))
    found = Classifier(encoder, **QUICK).fit(pd.Series(texts), pd.Series(labels).map(numbers))
    assert found.classes_.tolist() == sorted(numbers.values())
    assert found.classes_.dtype == np.int64
    assert pickle.loads(pickle.dumps(found)).classes_.tolist() == found.classes_.tolist()
    scores = found.predict_proba(texts[:20])
    assert scores.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    names = found.trained_.model.config.id2label
    top = [max(entry.scores) for entry in found._engine.answers(texts[:20])]
    classes = [int(names[entry.classes[0]]) for entry in found._engine.answers(texts[:20])]
    assert found.predict(texts[:20]).tolist() == classes
    assert scores.max(axis=1) == pytest.approx(top)


@pytest.mark.parametrize(
    ("labels", "dtype"), [((30, 4), np.int64), ((2**63 - 1, -(2**63)), np.int64), ((True, False), np.bool_)], ids=str
)
def test_what_the_command_trained_answers_in_the_type_of_the_labels(encoder, tmp_path, labels, dtype):
    texts, senses = texts_and_labels(40)
    given = [labels[0] if sense == "good" else labels[1] for sense in senses]
    rows = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, given, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    words = ("--data", tmp_path / "rows.jsonl", "--model", encoder, "--epochs", 1, "--max-length", 16)
    succeeds("train", *words, "--output", tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.classes_.tolist() == sorted(labels)
    assert loaded.predict(texts).dtype == loaded.classes_.dtype == dtype


def test_a_saved_classifier_predicts_in_the_type_of_the_labels(encoder, tmp_path):
    texts, senses = texts_and_labels(40)
    found = Classifier(encoder, **QUICK).fit(texts, [sense == "good" for sense in senses])
    found.save(tmp_path / "model")
    data = write_csv(tmp_path / "t.csv", [{"text": text} for text in texts])
    succeeds("predict", tmp_path / "model", "--data", data, "--output", tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == found.predict(texts).tolist()
    assert Classifier.load(tmp_path / "model").classes_.tolist() == [False, True]


def test_columns_are_in_the_order_of_the_classes(copied):
    texts, _ = texts_and_labels(10, seed=8)
    scores, answers = copied.predict_proba(texts), copied.predict(texts)
    config = copied.trained_.model.config
    config.id2label = {0: "z", 1: "a"}  # not in the order of the alphabet
    copied._take(copied.trained_)
    assert copied.classes_.tolist() == ["a", "z"]
    assert np.array_equal(copied.predict_proba(texts), scores[:, ::-1])
    assert copied.predict(texts).tolist() == [{"bad": "z", "good": "a"}[answer] for answer in answers]


def test_unlabelled_texts_reach_the_training(encoder, monkeypatch):
    texts, labels = texts_and_labels(10)
    more, _ = texts_and_labels(5, seed=2)
    seen = []

    def noted(job, _callbacks):
        seen.extend(job.unlabelled.texts)
        raise KeyboardInterrupt

    monkeypatch.setattr("sharcs.jobs.classifier.run_training", noted)
    with pytest.raises(KeyboardInterrupt):
        Classifier(encoder, **QUICK).fit(texts, labels, unlabelled=pd.Series(more))
    assert seen == more


def test_answers_of_one_text_and_of_none(fitted):
    texts, _ = texts_and_labels(10, seed=3)
    together = fitted.predict_proba(texts)
    for number, text in enumerate(texts):
        assert fitted.predict_proba([text])[0] == pytest.approx(together[number], abs=1e-5)
    assert fitted.predict([]).shape == (0,)
    assert fitted.predict_proba([]).shape == (0, len(fitted.classes_))
    assert fitted.costs([]).shape == (0,)


def test_costs_are_those_of_the_policy(copied):
    texts, labels = texts_and_labels(60, seed=4)
    config = copied.trained_.model.config
    config.policy = {"start": "recurrent"}
    assert (copied.costs(texts) < 0.9).all()
    narrow = copied.costs(texts)
    middle = float(np.median(copied.predict_proba(texts).max(axis=1)))
    config.policy = {"start": "recurrent", "escalation_threshold": middle}
    found = copied.costs(texts)
    escalated = [answer.width_index != answer.first_width_index for answer in copied._engine.predict(texts)]
    assert 0 < sum(escalated) < len(texts)
    assert ((found > narrow) == escalated).all()
    assert found.tolist() == pytest.approx([float(copied.costs([text])[0]) for text in texts])
    assert copied.score(texts, labels) == np.mean(copied.predict(texts) == np.array(labels))


def test_saved_loaded_pickled_and_exported_it_answers_the_same(fitted, copied, tmp_path):
    texts, _ = texts_and_labels(40, seed=5)
    expected = fitted.predict_proba(texts)
    fitted.save(tmp_path / "saved")
    loaded = Classifier.load(tmp_path / "saved")
    assert loaded.get_params() == {**fitted.get_params(), "sub_networks": ["recurrent", "full"]}
    for other in (loaded, copied):
        assert np.array_equal(other.predict_proba(texts), expected)
        assert other.classes_.tolist() == fitted.classes_.tolist()
    with pytest.raises(InputError, match="is in use"):
        fitted.save(tmp_path / "saved")
    succeeds("predict", tmp_path / "saved", "--data", write_csv(tmp_path / "t.csv", [{"text": t} for t in texts]),
             "--output", tmp_path / "out.csv")  # fmt: skip
    assert [row["prediction"] for row in read_csv(tmp_path / "out.csv")] == fitted.predict(texts).tolist()


@pytest.mark.extended
def test_an_export_answers_the_same(fitted, tmp_path):
    texts, _ = texts_and_labels(40, seed=5)
    fitted.export(tmp_path / "export")
    runner = OnnxRunner(tmp_path / "export")
    assert [runner.labels[each.class_index] for each in runner.predict(texts)] == fitted.predict(texts).tolist()


def test_it_is_calibrated_like_the_command(copied, tmp_path):
    texts, labels = texts_and_labels(400, seed=6)
    copied.save(tmp_path / "model")
    assert copied.calibrate(texts, labels, max_accuracy_drop=0.2) is copied
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    run = sharcs("calibrate", tmp_path / "model", "--data", write_csv(tmp_path / "rows.csv", rows),
                 "--max-accuracy-drop", 0.2)  # fmt: skip
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.calibration_ == copied.calibration_
    found = copied.calibration_
    assert found.met == (run.code == 0)
    assert found.rows == 320
    assert set(found.bounds) == ({"max_accuracy_drop"} if found.met else set())
    cheapest = copied.trained_.model.config.calibration["frontier"][0]["cost_ratio"]
    copied.set_budget(cheapest + 0.01)
    assert copied.costs(texts).mean() <= cheapest + 0.01
    with pytest.raises(InputError, match="the cheapest policy costs"):
        copied.set_budget(cheapest / 2)
    assert copied.calibrate(texts, max_disagreement=0.5).calibration_.rows == 320


def test_what_stands_in_calibration_is_the_trainings_promise(fitted):
    found = fitted.calibration_
    assert (found.rows, found.met) == (0, True)  # 300 rows are too few to hold any out


def test_few_rows_say_that_nothing_is_promised_and_how_many_that_takes(encoder):
    texts, labels = texts_and_labels(24)
    with pytest.warns(UserWarning, match="nothing is promised") as warned:
        found = Classifier(encoder, **QUICK).fit(texts, labels, validation=texts_and_labels(40, seed=1))
    (said,) = [str(one.message) for one in warned if "promised" in str(one.message)]
    assert "40 rows are held out, and 100 are needed" in said
    assert "1,000 rows to train on" in said
    model = found.trained_.model
    inputs = found.trained_.tokenizer(texts, padding=True, return_tensors="pt")
    alone = model.answer_of(model(**inputs, width=1.0)).softmax(-1).detach().numpy()
    assert found.predict_proba(texts) == pytest.approx(alone, abs=1e-5)  # thresholds would be a guess
    found.calibrate(texts_and_labels(320, seed=3)[0], max_disagreement=0.9)
    assert found.costs(texts).mean() < 0.5


def test_few_rows_are_passed_over_often_enough(encoder):
    texts, labels = texts_and_labels(11)
    settings = {**QUICK, "epochs": None, "batch_size": 4}  # the last batch of three has a row less
    steps = []

    class Count(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            steps.append(state.max_steps)

    Classifier(encoder, **settings).fit(texts, labels, callbacks=[Count()])
    assert steps[0] == FEWEST_STEPS
    assert (usual_epochs(11, 4), usual_epochs(1200, 16)) == (200, FRONT_EPOCHS)  # of more rows, what the help says
    assert usual_epochs(100_000, 32) == FRONT_EPOCHS


def test_fit_and_save_are_quiet_and_leave_the_users_settings(encoder, tmp_path):
    lines = [
        "import logging",
        "from transformers.utils import logging as theirs",
        "from sharcs import Classifier",
    ]
    lines += [f"found = Classifier({encoder!r}, **{QUICK!r}).fit(*{texts_and_labels(40)!r})"]
    lines += [f"found.save({str(tmp_path / 'model')!r})"]
    lines += ["print(theirs.get_verbosity() == logging.WARNING, theirs.is_progress_bar_enabled())"]
    program = "import warnings; warnings.simplefilter('ignore')\n" + "\n".join(lines)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("True True\n", "")


def test_a_validation_set_promises(encoder):
    texts, labels = texts_and_labels(100)
    held_out = texts_and_labels(240, seed=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "nothing is promised")
        found = Classifier(encoder, **QUICK).fit(
            texts, labels, validation=held_out, unlabelled=texts_and_labels(50, 2)[0]
        )
    assert found.calibration_.rows == len(halves(240, 0)[1])
    assert set(found.calibration_.bounds) == {"max_accuracy_drop", "max_disagreement"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c, t, y: c.fit(t, y[:-1]), "labels: are 39, and there are 40 texts"),
        (lambda c, t, y: c.fit([*t[:-1], " "], y), "texts: number 40 is empty"),
        (
            lambda c, t, y: c.fit(t, y, validation=(t, ["other"] * 40)),
            "labels: number 1 is 'other', which is no class",
        ),
        (lambda c, t, y: c.fit(t, ["one"] * 40), "^texts: one class only"),
        (lambda c, t, y: c.fit([], []), "^texts: there are none"),
        (lambda c, t, y: c.fit(t, [2**63, *range(39)]), "^labels: number 1 is 9223372036854775808"),
        (lambda c, t, y: c.fit(t, y, validation=([*t[:-1], ""], y)), "^validation: texts: number 40 is empty"),
        (
            lambda c, t, y: c.fit(t, y, validation=(list(zip(t, t, strict=True)), y)),
            "^texts: has single texts while val",
        ),
        (lambda c, t, y: c.fit(t, y, unlabelled=[*t, None]), "^unlabelled: texts: number 41 is a NoneType"),
        (
            lambda c, t, y: c.fit(t, y, unlabelled=[(x, x) for x in t]),
            "^texts: has single texts while unlabelled has",
        ),
        (
            lambda c, t, y: c.set_params(sub_networks=(0.5, 1.0)).fit(t, y, unlabelled=t),
            "^`unlabelled` unlabelled: is",
        ),
        (
            lambda c, t, y: c.set_params(budget=0.5, max_disagreement=0.1).fit(t, y),
            "2 of `budget`, `max_disagreement`",
        ),
        (lambda c, t, y: c.set_params(sub_networks=("full", "lstm")).fit(t, y), "'lstm' is no sub-network"),
        (lambda c, t, y: c.set_params(sub_networks="lexical,lstm,full").fit(t, y), "lexical,lstm,full: 'lstm' is no"),
        (lambda c, t, y: c.set_params(max_accuracy_drop=0.1).fit(t, y), "held-out rows"),
    ],
)
def test_what_is_wrong_is_said_before_the_training(encoder, call, says, monkeypatch):
    monkeypatch.setattr("transformers.Trainer.train", lambda *_, **__: pytest.fail("trains"))
    texts, labels = texts_and_labels(40)
    with pytest.raises(InputError, match=says) as refusal:
        call(Classifier(encoder, **QUICK), texts, labels)
    assert "\n" not in str(refusal.value)


def test_limits_of_a_calibration(fitted):
    texts, labels = texts_and_labels(20)
    with pytest.raises(InputError, match="none of budget, max_accuracy_drop, max_disagreement given"):
        fitted.calibrate(texts, labels)
    with pytest.raises(InputError, match="needs labels"):
        fitted.calibrate(texts, max_accuracy_drop=0.1)
    assert Constraint("budget", 0.5).kind == "budget"


def test_before_fitting(encoder):
    plain = Classifier(encoder, **QUICK)
    texts, labels = texts_and_labels(4)
    for call in (
        lambda: plain.predict(texts),
        lambda: plain.predict_proba(texts),
        lambda: plain.score(texts, labels),
        lambda: plain.calibrate(texts, budget=0.5),
        lambda: plain.set_budget(0.5),
        lambda: plain.calibration_,
        lambda: plain.save("nowhere"),
        lambda: plain.export("nowhere"),
        lambda: plain.push_to_hub("nobody/nothing"),
    ):
        with pytest.raises(NotFittedError):
            call()


def test_parameters_are_what_scikit_learn_expects(encoder):
    plain = Classifier(encoder, **QUICK, budget=0.5, seed=7)
    again = clone(plain)
    assert again.get_params() == plain.get_params()
    assert again is not plain
    assert again.set_params(budget=0.2).budget == 0.2
    assert plain.budget == 0.5
    assert pickle.loads(pickle.dumps(plain)).get_params() == plain.get_params()
    assert not hasattr(clone(plain), "trained_")


@pytest.mark.extended
def test_fitting_twice_forgets_the_first(encoder):
    texts, labels = texts_and_labels(60)
    found = Classifier(encoder, **QUICK)
    found.fit(texts, [f"{label}!" for label in labels])
    found.fit(texts, labels)
    once = Classifier(encoder, **QUICK).fit(texts, labels)
    assert found.classes_.tolist() == sorted(set(labels))
    assert np.array_equal(found.predict_proba(texts), once.predict_proba(texts))


@pytest.mark.extended
def test_it_stands_in_a_pipeline_a_search_and_a_calibration(encoder):
    texts, labels = texts_and_labels(90)
    plain = Classifier(encoder, **QUICK)
    lower = FunctionTransformer(lambda given: [text.lower() for text in given])
    pipeline = make_pipeline(lower, plain).fit(texts, labels)
    assert pipeline.predict([text.upper() for text in texts[:5]]).tolist() == pipeline.predict(texts[:5]).tolist()
    search = GridSearchCV(plain, {"learning_rate": [1e-3, 3e-3]}, cv=2).fit(texts, labels)
    assert search.best_params_["learning_rate"] in (1e-3, 3e-3)
    calibrated = CalibratedClassifierCV(plain, cv=2, ensemble=False).fit(texts, labels)
    assert calibrated.predict_proba(texts[:5]).sum(axis=1) == pytest.approx(1.0)


def test_the_hub_is_given_model_and_tokenizer(copied, monkeypatch):
    sent = []
    monkeypatch.setattr(
        type(copied.trained_.model), "push_to_hub", lambda _, name, **options: sent.append((name, options))
    )
    monkeypatch.setattr(
        type(copied.trained_.tokenizer), "push_to_hub", lambda _, name, **options: sent.append((name, options))
    )
    copied.push_to_hub("me/mine", private=True)
    assert sent == [("me/mine", {"private": True})] * 2


def test_what_the_hub_gets_comes_back_with_its_card(copied, tmp_path, monkeypatch):
    """Through a stand-in for the hub that keeps files in a folder."""
    hub = tmp_path / "hub"

    def commit(repo_id, operations, **_):
        for operation in operations:
            file = hub / repo_id / operation.path_in_repo
            file.parent.mkdir(parents=True, exist_ok=True)
            with operation.as_file() as content:
                file.write_bytes(content.read())

    def card(repo_id, **_):
        file = hub / repo_id / "README.md"
        if not file.is_file():
            raise EntryNotFoundError("no card")
        return ModelCard(file.read_text(encoding="utf-8"))

    api = SimpleNamespace(create_repo=lambda name, **_: SimpleNamespace(repo_id=name), create_commit=commit)
    monkeypatch.setattr(transformers_hub, "hf_api", lambda: api)
    monkeypatch.setattr(transformers_hub.ModelCard, "load", card)
    copied.push_to_hub("me/mine", private=True)
    folder = hub / "me" / "mine"
    copied.save(tmp_path / "saved")
    written = (folder / "README.md").read_text(encoding="utf-8")
    saved = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert ModelCard(written).data.to_dict() == ModelCard(saved).data.to_dict()
    assert ModelCard(written).text.split() == ModelCard(saved).text.split()
    texts, _ = texts_and_labels(30, seed=2)
    back = Classifier.load(folder)
    assert np.array_equal(back.predict_proba(texts), copied.predict_proba(texts))
    assert back.calibration_ == copied.calibration_
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    weights = copied.trained_.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_notebook_shows_the_policy_and_what_speaks_for_it(encoder, copied):
    for unfitted in (Classifier(encoder), copied):
        shown = unfitted._repr_mimebundle_()["text/html"]
        assert "Classifier" in shown
        assert hasattr(unfitted, "_repr_html_")
    assert copied.calibration_._repr_html_() in shown
    evidence = Evidence(copied.calibration_.policy, 1234, {"max_disagreement": 0.0512}, 0.95, 0.4, True)
    for words in ("1,234", "at most 5.12 %, at 95 % confidence", "40.0 % of the full network&#x27;s"):
        assert f"<td>{words}</td>" in evidence._repr_html_()
    assert all(f"<th>{name}</th>" in evidence._repr_html_() for name in ("policy", "max disagreement", "FLOPs"))
    refused = Evidence(copied.calibration_.policy, 3, {"<b>": 0.1}, 0.9, None, False)._repr_html_()
    assert "&lt;b&gt;" in refused
    assert "no policy keeps it" in refused


def test_it_abstains_where_it_is_unsure(fitted):
    texts, _ = texts_and_labels(40, seed=7)
    sure = fitted.predict_proba(texts).max(axis=1)
    limit = float(np.median(sure))
    expected = [
        label if score >= limit else None for label, score in zip(fitted.predict(texts).tolist(), sure, strict=True)
    ]
    assert fitted.predict(texts, abstain_below=limit).tolist() == expected
    assert 0 < expected.count(None) < 40


def test_weights_of_classes_reach_the_training(encoder, monkeypatch):
    texts, labels = texts_and_labels(10)
    number_of = {sense: number for number, sense in enumerate(sorted(set(labels)), 3)}
    seen = []

    def noted(job, _callbacks):
        seen.append(job.class_weights)
        raise KeyboardInterrupt

    monkeypatch.setattr("sharcs.jobs.classifier.run_training", noted)
    for weight in ({3: 2.5}, "balanced", None):
        with pytest.raises(KeyboardInterrupt):
            Classifier(encoder, **QUICK, class_weight=weight).fit(texts, [number_of[label] for label in labels])
    assert seen == [{"3": 2.5}, "balanced", None]


SETS = {"epochs": 12, "learning_rate": 3e-3, "max_length": 16}


def test_sets_of_labels_in_each_form_are_one_training(encoder, tmp_path):
    texts, _ = texts_and_labels(90)
    words = ["dog", "film", "town"]
    sets = [[word for word in words if word in text] for text in texts]
    flags = np.array([[word in text for word in words] for text in texts], int)
    found = Classifier(encoder, **SETS).fit(texts, sets)
    assert found.classes_.tolist() == words
    scores, answers = found.predict_proba(texts), found.predict(texts)
    assert answers.tolist() == (scores > 0.5).astype(int).tolist()
    assert 0 < answers.sum() < answers.size
    assert found.score(texts, sets) == np.mean((answers == flags).all(axis=1))
    matrix = Classifier(encoder, **SETS).fit(texts, flags)
    assert matrix.classes_.tolist() == [0, 1, 2]
    assert np.array_equal(matrix.predict_proba(texts), scores)
    assert matrix.score(texts, flags) == found.score(texts, sets)
    found.save(tmp_path / "saved")
    loaded = Classifier.load(tmp_path / "saved")
    assert loaded.classes_.tolist() == words
    assert np.array_equal(loaded.predict(texts), answers)
    assert loaded.calibrate(texts, sets, max_disagreement=0.9).calibration_.met


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([["a"], ["b"]], "labels: are of 2 texts, and there are 3"),
        ([["a"], ["b"], [None]], "labels: number 3 is missing"),
        (np.array([[0, 1], [1, 0], [2, 0]]), r"labels: number 3 is \[2, 0\]; give zeros and ones"),
        (np.array([[0, 1], [0, 0], [0, 1]]), "no text has the label 0"),
        (pd.DataFrame({"a": [0, 0, 1], "b": [0, 0, 0]}), "no text has the label 'b'"),
        ([["a"], ["b"], []], "front recurrent: answer with one class"),
    ],
)
def test_sets_that_cannot_be_are_refused_before_the_training(encoder, labels, says, monkeypatch):
    monkeypatch.setattr("transformers.Trainer.train", lambda *_, **__: pytest.fail("trains"))
    with pytest.raises(InputError, match=says):
        Classifier(encoder, **QUICK).fit(["one", "two", "three"], labels)
