"""Weights of rows: those of plain training with a weighted mean, and of nothing where a weight is 0."""

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, default_data_collator

from helpers.cli import save_encoder, toy_rows
from sharcs import (
    Classifier,
    InputError,
    SharcsForSequenceClassification,
    SharcsTrainer,
    SharcsTrainingArguments,
)
from sharcs.tasks.classification import Task

QUICK = {"sub_networks": (0.25, "full"), "epochs": 1, "learning_rate": 3e-3, "max_length": 16, "batch_size": 64}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_encoder(tmp_path_factory.mktemp("encoder"), layers=2))


def texts_and_labels(count):
    rows = toy_rows(count)
    return [row["text"] for row in rows], [row["label"] for row in rows]


def test_rows_of_weight_nothing_are_left_out(encoder):
    texts, labels = texts_and_labels(20)
    weights = np.array([1.0, 2.0, 0.0, 3.0] * 5)
    kept = weights > 0
    one = Classifier(encoder, **QUICK).fit(texts, labels, sample_weight=weights)
    some = [list(np.array(values)[kept]) for values in (texts, labels)]
    other = Classifier(encoder, **QUICK).fit(*some, sample_weight=weights[kept])
    assert np.array_equal(one.predict_proba(texts), other.predict_proba(texts))
    plain = Classifier(encoder, **QUICK).fit(*some)
    assert not np.allclose(one.predict_proba(texts), plain.predict_proba(texts))
    alike = Classifier(encoder, **QUICK).fit(*some, sample_weight=np.full(kept.sum(), 0.1))
    assert np.allclose(alike.predict_proba(texts), plain.predict_proba(texts), atol=1e-6)


def test_the_full_network_learns_as_in_plain_training_with_a_weighted_loss(bert_path, tmp_path):
    """Whose loss is written out here: each row's by its weight, which is 1 on average over all rows."""
    generator = torch.Generator().manual_seed(0)
    weights = [0.5, 1.0, 2.0, 0.5] * 6
    rows = [
        {
            "input_ids": torch.randint(5, 30, (6,), generator=generator).tolist(),
            "labels": number % 3,
            "sample_weight": of,
        }
        for number, of in enumerate(weights)
    ]

    class Weighted(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            of = inputs.pop("sample_weight")
            losses = F.cross_entropy(model(**inputs).logits, inputs["labels"], reduction="none")
            return (losses * of).sum() / len(of)

    settings = {
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 5,
        "train_sampling_strategy": "random",
        "report_to": [],
        "save_strategy": "no",
    }
    plain = AutoModelForSequenceClassification.from_pretrained(bert_path)
    arguments = TrainingArguments(str(tmp_path / "plain"), remove_unused_columns=False, **settings)
    Weighted(model=plain, args=arguments, train_dataset=rows, data_collator=default_data_collator).train()
    routed = SharcsForSequenceClassification.from_encoder(bert_path)
    arguments = SharcsTrainingArguments(
        str(tmp_path / "routed"), subnetwork_epochs=1, importance_samples=0, **settings
    )
    SharcsTrainer(
        model=routed,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        data_collator=default_data_collator,
    ).train()
    found = routed.state_dict()
    assert all(
        torch.allclose(found[f"encoder.{name}"], value, atol=1e-6) for name, value in plain.state_dict().items()
    )


@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.5, 3.0, 1.5])])
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_a_row_of_weight_three_counts_like_three_rows(problem_type, class_weights):
    """The weights are those of all rows, so that they are 1 on average here."""
    task = Task(problem_type, class_weights)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator)
    labels = torch.tensor([0, 1, 2, 1])
    if problem_type != "single_label_classification":
        labels = F.one_hot(labels, 3).float()
    times = torch.tensor([3, 1, 2, 2])
    repeated = task.narrow_loss(logits.repeat_interleave(times, 0), labels.repeat_interleave(times, 0))
    found = task.weighted_loss(logits, labels, times / times.float().mean())
    if class_weights is None or problem_type != "single_label_classification":
        assert float(found) == pytest.approx(float(repeated))
    else:  # the classes' weights are divided by those of the batch, as torch does without weights of rows
        alone = F.cross_entropy(logits, labels, class_weights, reduction="none")
        assert float(found) == pytest.approx(float((alone * times / 2).sum() / class_weights[labels].sum()))
    assert float(task.weighted_loss(logits, labels, torch.ones(4))) == pytest.approx(
        float(task.narrow_loss(logits, labels))
    )


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1.0, 2.0], "has to be 20 numbers"),
        (["a"] * 20, "has to be 20 numbers"),
        ([1.0] * 19 + [-1.0], "number 20 is -1; give finite numbers from 0 on"),
        ([float("nan")] + [1.0] * 19, "number 1 is nan"),
        ([0] * 20, "all are 0"),
    ],
)
def test_what_is_no_weight_is_refused_before_the_training(encoder, monkeypatch, weights, says):
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("trains"))
    with pytest.raises(InputError, match=says):
        Classifier(encoder, **QUICK).fit(*texts_and_labels(20), sample_weight=weights)
