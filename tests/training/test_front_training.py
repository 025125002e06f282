"""The run that trains what stands in front of the encoder: what moves, what it learns from, and resuming it."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertTokenizerFast

from helpers.front import KINDS, front_model
from helpers.tiny import arguments, collate, toy_rows
from sharcs import InputError
from sharcs.data.made import TextMaker
from sharcs.subnetworks.vectors import principal_components, token_vectors
from sharcs.tasks.base import UNLABELLED
from sharcs.training.arguments import PLUS
from sharcs.training.checkpoints import furthest_checkpoint
from sharcs.training.front import TEMPERATURE, FrontTrainer, student_loss
from sharcs.training.trainer import SharcsTrainer

ROWS = 48
SETTINGS = {"num_train_epochs": 2, "subnetwork_epochs": 1, "front_epochs": 2, "importance_samples": 16}


def trainer_of(folder, model=None, unlabelled=None, rows=None, **settings):
    return SharcsTrainer(
        model=model or front_model(),
        args=arguments(folder, recipe=PLUS, **SETTINGS | settings),
        train_dataset=rows or toy_rows(ROWS),
        data_collator=collate,
        unlabelled_dataset=unlabelled,
    )


def parts_of(model, prefix):
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith(prefix)}


EVERY = ("lexical", *KINDS)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_full_network_is_what_it_is_without_anything_in_front(tmp_path):
    trained = []
    for number, front in enumerate(((), EVERY)):
        torch.manual_seed(0)
        model = front_model(front=front)
        torch.manual_seed(1)
        trainer_of(tmp_path / str(number), model).train()
        trained.append(parts_of(model, "encoder."))
    assert same(*trained)


def test_each_run_moves_its_own_parts_alone(tmp_path):
    seen = {}
    model = front_model()
    trainer = trainer_of(tmp_path, model, save_strategy="epoch")
    trainer.train()
    for name in ("front/checkpoint-0", "subnetworks/checkpoint-0"):
        seen[name] = front_model(seed=5)
        seen[name].load_state_dict(load_file(tmp_path / name / "model.safetensors"), strict=False)
    before, after = seen.values()
    assert same(parts_of(before, "encoder."), parts_of(after, "encoder."))
    assert same(parts_of(before, "subnetworks.width-25"), parts_of(after, "subnetworks.width-25"))
    for kind in KINDS:
        moved, stayed = parts_of(before, f"subnetworks.{kind}"), parts_of(after, f"subnetworks.{kind}")
        assert not same(moved, stayed)
        assert same(stayed, parts_of(model, f"subnetworks.{kind}"))
    assert trainer.model.config.routing_policy.start == "recurrent"


@pytest.mark.parametrize("front", [KINDS, ("lexical",)])
def test_what_stands_in_front_learns_the_full_networks_answers(tmp_path, front):
    rows = [row for number, row in enumerate(toy_rows(256)) if number % 4]  # those whose label can be told
    model = front_model(layers=2, front=front)
    trainer_of(tmp_path, model, rows=rows, num_train_epochs=6, front_epochs=12).train()
    model.train(False)
    batch = collate(rows[:64])
    labels = batch.pop("labels")
    with torch.no_grad():
        right = (model(**batch, widths="all").width_logits.argmax(-1) == labels).float().mean(-1)
    assert right[-1] > 0.9
    assert right[: len(front)].min() > 0.85


@pytest.mark.parametrize(
    "kept", ["checkpoint-12", "front/checkpoint-0", "front/checkpoint-3", "subnetworks/checkpoint-2"]
)
def test_a_resumed_training_ends_like_one_that_was_not_interrupted(whole, tmp_path, kept):
    folder, weights = whole
    shutil.copytree(folder / kept, tmp_path / kept)
    torch.manual_seed(1)
    model = front_model(seed=9)
    trainer_of(tmp_path, model, save_strategy="steps", save_steps=1).train(resume_from_checkpoint=True)
    assert same(parts_of(model, ""), weights)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that wasn't interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    model = front_model()
    trainer_of(folder, model, save_strategy="steps", save_steps=1).train()
    assert furthest_checkpoint(folder).endswith("subnetworks/checkpoint-6")
    return folder, parts_of(model, "")


def test_rows_without_labels_teach_by_the_full_networks_answers_alone(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "sharcs.training.front.student_loss",
        lambda logits, teacher, labels: seen.append((teacher, labels)) or student_loss(logits, teacher, labels),
    )
    more = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in toy_rows(20, seed=4)]
    model = front_model()
    trainer_of(tmp_path, model, more, front_epochs=1).train()
    labels = torch.cat([labels for _, labels in seen[::2]])
    assert sorted(labels.tolist()) == sorted([UNLABELLED] * 20 + [row["labels"] for row in toy_rows(ROWS)])
    with pytest.raises(InputError, match="unlabelled_dataset: is for what stands in front of the encoder"):
        trainer_of(tmp_path, front_model(front=()), more)
    trainer_of(tmp_path / "saved", front_model(), more, save_strategy="epoch").train()
    others = trainer_of(tmp_path / "saved", front_model(), more[1:])
    with pytest.raises(InputError, match="unlabelled rows"):
        others.train(resume_from_checkpoint=True)


def test_half_of_what_a_labelled_row_teaches_is_its_label():
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(5, 3, generator=generator) for _ in range(2))
    labels = torch.tensor([0, UNLABELLED, 2, 1, UNLABELLED])
    expected = 0.0
    for row in range(5):
        soft, mine = (x[row].double() / TEMPERATURE for x in (teacher, logits))
        wanted = soft.softmax(-1)
        distance = float((wanted * (wanted.log() - mine.log_softmax(-1))).sum()) * TEMPERATURE**2
        if labels[row] == UNLABELLED:
            expected += distance / 5
        else:
            expected += (distance - float(logits[row].double().log_softmax(-1)[labels[row]])) / 2 / 5
    assert float(student_loss(logits, teacher, labels)) == pytest.approx(expected, rel=1e-5)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##like", "##ly", "good", "bad", "film", "very"]


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return BertTokenizerFast(str(tmp_path / "vocab.txt"))


TEXTS = ["unlikely good film", "very bad film very bad", "good", "unlikely unlike very good good film bad"]


@pytest.mark.parametrize("pairs", [False, True])
def test_made_texts_are_of_the_words_and_the_form_of_training_rows(tokenizer, pairs):
    rows = [dict(tokenizer(text, TEXTS[-1 - i] if pairs else None)) for i, text in enumerate(TEXTS)]
    maker = TextMaker(rows, tokenizer)
    made = maker.rows_made(300, seed=1)
    assert made == TextMaker(rows, tokenizer).rows_made(300, seed=1)
    assert made != maker.rows_made(300, seed=2)
    longest = max(len(row["input_ids"]) for row in rows)
    words = {tuple(tokenizer(word, add_special_tokens=False)["input_ids"]) for text in TEXTS for word in text.split()}
    for row in made:
        ids, types = row["input_ids"], row["token_type_ids"]
        assert len(ids) == len(types) == len(row["attention_mask"]) <= longest
        assert (ids[0], ids[-1], ids.count(3)) == (2, 3, 2 if pairs else 1)
        assert "labels" not in row
        inside = [tokenizer.decode([token]) for token in ids]
        assert "[PAD]" not in inside
        assert types == [0] * (ids.index(3) + 1) + [1] * (len(ids) - ids.index(3) - 1)
        if len(ids) < longest:  # else its last word may be cut
            text = tokenizer.decode(ids, skip_special_tokens=True)
            assert all(
                tuple(tokenizer(word, add_special_tokens=False)["input_ids"]) in words for word in text.split()
            )
    if not pairs:
        texts = {tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in made}
        assert any(text in " ".join(TEXTS) and text not in TEXTS for text in texts)  # a crop
        assert len(texts) > 100
        long = TEXTS[-1].split()
        changed = [tokenizer.decode(row["input_ids"], skip_special_tokens=True).split() for row in made[2::3]]
        assert any(len(words) < len(long) and words[0] == long[0] and words[-1] == long[-1] for words in changed)
        assert any(sorted(words) == sorted(long) and words != long for words in changed)  # swapped


def test_vectors_are_principal_components_of_the_last_states():
    model = front_model(layers=2)
    rows = toy_rows(20)
    found = token_vectors(
        lambda tokens: model.last_states(input_ids=tokens, attention_mask=torch.ones_like(tokens)), 64, 8, rows
    )
    ids = torch.arange(64).unsqueeze(1)
    tokens = torch.cat([torch.full_like(ids, 1), ids, torch.full_like(ids, 2)], dim=1)
    with torch.no_grad():
        states = [
            model.last_states(input_ids=row.unsqueeze(0), attention_mask=torch.ones(1, 3).long()) for row in tokens
        ]
    means = torch.cat(states).mean(1).double().numpy()
    centred = means - means.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :8] * values[:8]
    expected /= expected.std(ddof=1)
    signs = np.sign((expected * found.numpy()).sum(0))
    np.testing.assert_allclose(found.numpy() * signs, expected, atol=1e-3)
    assert float(principal_components(torch.from_numpy(means), 3).std()) == pytest.approx(1.0, abs=1e-5)


def test_the_recurrent_one_begins_with_what_the_full_network_says_of_each_token(tmp_path):
    model = front_model(layers=2)
    rows = toy_rows(20)
    settings = arguments(tmp_path, recipe=PLUS, **SETTINGS | {"importance_samples": 0})
    FrontTrainer(model=model, args=settings, train_dataset=rows, data_collator=collate).begin()
    recurrent = model.tail.front[0]
    expected = token_vectors(
        lambda tokens: model.last_states(input_ids=tokens, attention_mask=torch.ones_like(tokens)),
        *recurrent.vectors.weight.shape,
        rows,
    )
    torch.testing.assert_close(recurrent.vectors.weight.detach(), expected)


def test_the_lexical_one_begins_with_the_same_the_rare_tokens_longer(tmp_path):
    model = front_model(layers=2, front=("lexical",))
    rows = toy_rows(20)
    settings = arguments(tmp_path, recipe=PLUS, **SETTINGS | {"importance_samples": 0})
    FrontTrainer(model=model, args=settings, train_dataset=rows, data_collator=collate).begin()
    vectors = model.tail.front[0].vectors.weight.detach()
    expected = token_vectors(
        lambda tokens: model.last_states(input_ids=tokens, attention_mask=torch.ones_like(tokens)),
        *vectors.shape,
        rows,
    )
    counts = Counter(token for row in rows for token in row["input_ids"])
    for token in (1, 3, 10, 41):
        share = counts[token] / sum(counts.values())
        torch.testing.assert_close(vectors[token], expected[token] * 1e-3 / (1e-3 + share))


@pytest.mark.parametrize("encoder_rate", [5e-5, 1e-3])
def test_each_learns_at_a_rate_of_its_own_whatever_the_encoders_is(tmp_path, encoder_rate):
    model = front_model()
    settings = arguments(tmp_path, recipe=PLUS, **SETTINGS | {"learning_rate": encoder_rate})
    trainer = FrontTrainer(model=model, args=settings, train_dataset=toy_rows(ROWS), data_collator=collate)
    rate_of = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    for part, rate in zip(model.tail.front, (2e-3, 2e-4), strict=True):
        assert [rate_of[id(p)] for p in part.parameters()] == pytest.approx([rate] * len(list(part.parameters())))


def test_each_row_learns_from_its_own_answer_with_dropout_in_what_learns_alone(tmp_path, monkeypatch):
    rows = toy_rows(ROWS)
    model, seen = front_model(), []

    def noted(self, outputs, teacher, inputs):
        modes = [part.training for part in self.model.tail.front]
        self.model.train(False)
        with torch.no_grad():
            kept = {name: value for name, value in inputs.items() if name != "labels"}
            expected = self.model(**kept, width=1.0).logits
        seen.append((modes, self.model.encoder.training, float((teacher - expected).abs().max())))
        return lesson(self, outputs, teacher, inputs)

    lesson = FrontTrainer.lesson
    monkeypatch.setattr(FrontTrainer, "lesson", noted)
    trainer_of(tmp_path, model, rows=rows, num_train_epochs=1, front_epochs=1).train()
    assert len(seen) > 2
    assert all(modes == [True, True] and not encoder for modes, encoder, _ in seen)
    assert max(difference for *_, difference in seen) < 1e-4
