"""Both recipes on images and waves: a small ViT that learns real digits from scratch, and short runs of the rest."""

import pytest
import torch
from sklearn.datasets import load_digits
from transformers import ViTConfig

from helpers.media import frames, load_routed, make_batch, save_plain
from helpers.own import with_own_weights
from helpers.tiny import TRAINERS, arguments
from sharcs import SharcsConfig, SharcsForImageClassification, SharcsTrainer
from sharcs.evaluation.accuracy import accuracy_report
from sharcs.evaluation.widths import run_all_widths
from sharcs.training.subnetworks import learning_parameters

PLUS = {"recipe": "sharcs+", "importance_samples": 16}
BANDS = {0.25: (0.3, 1.0), 0.5: (0.2, 1.0), 1.0: (0.0, 1.0)}
RECIPES = {
    "paper": {"recipe": "paper", "importance_samples": 16, "bands": BANDS},
    "sharcs+": PLUS | {"num_train_epochs": 1, "subnetwork_epochs": 1},
}


def collate(rows):
    """Pad waves at their end; images have one size."""
    name = "pixel_values" if "pixel_values" in rows[0] else "input_values"
    inputs = [row[name] for row in rows]
    batch = {name: torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)}
    if name == "input_values":
        longest = torch.arange(batch[name].shape[1])
        batch["attention_mask"] = (longest < torch.tensor([len(wave) for wave in inputs])[:, None]).long()
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


def digits(first, last):
    """Rows of scikit-learn's digits, 8 pixels a side and one channel, from 0 to 1."""
    data = load_digits()
    images = torch.tensor(data.images[first:last], dtype=torch.float32).unsqueeze(1) / 16
    return [{"pixel_values": i, "labels": int(y)} for i, y in zip(images, data.target[first:last], strict=True)]


def test_a_small_vit_learns_digits_from_scratch_and_answers_most_of_them_narrow(tmp_path):
    torch.manual_seed(0)
    encoder = ViTConfig(
        hidden_size=48,
        num_attention_heads=4,
        num_hidden_layers=4,
        intermediate_size=96,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
    )
    config = SharcsConfig(encoder=encoder, widths=[0.25, 1.0], router_layer=1, router_hidden_size=32, weights="own")
    model = SharcsForImageClassification(config)
    settings = PLUS | {"num_train_epochs": 12, "subnetwork_epochs": 6, "per_device_train_batch_size": 32}
    trainer = SharcsTrainer(
        model=model,
        args=arguments(tmp_path, **settings, logging_steps=1000),
        train_dataset=digits(0, 1000),
        data_collator=collate,
    )
    trainer.train()
    test = digits(1000, 1400)
    report = accuracy_report(
        model, run_all_widths(model, test, collate), torch.tensor([row["labels"] for row in test])
    ).to_dict()
    assert report["full"]["accuracy"] > 0.7  # chance is 0.1
    assert report["widths"][0]["accuracy"] > 0.6
    assert report["routed"]["accuracy"] > report["full"]["accuracy"] - 0.05
    assert report["routed"]["flops_ratio"] < 1
    model.eval()
    with torch.no_grad():
        answers = model(**collate([{"pixel_values": row["pixel_values"]} for row in test])).logits.argmax(-1)
    right = sum(int(a) == row["labels"] for a, row in zip(answers, test, strict=True)) / len(test)
    assert right == pytest.approx(report["routed"]["accuracy"])
    trainer.train_dataset = None
    assert trainer.predict(test[:50]).predictions.shape == (50, 10)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "kind",
    [
        "siglip",
        "hubert",
        *(pytest.param(k, marks=pytest.mark.extended) for k in ("dinov2-swiglu", "wav2vec2-stable")),
    ],
)
def test_both_recipes_run_on_every_kind_of_input(tmp_path, kind, recipe):
    samples = [40 + 7 * (number % 5) for number in range(20)]
    name = next(iter(make_batch(kind)))
    values = [make_batch(kind, [count], seed=number)[name][0] for number, count in enumerate(samples)]
    rows = [{name: value, "labels": number % 3} for number, value in enumerate(values)]
    torch.manual_seed(0)
    model = load_routed(kind, save_plain(kind, tmp_path / "plain"))
    model = with_own_weights(model) if recipe == "sharcs+" else model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = TRAINERS[recipe](
        model=model,
        args=arguments(tmp_path, **RECIPES[recipe]),
        train_dataset=rows,
        data_collator=collate,
    )
    teacher = []  # of the passes at full width, outside training: importance, then the teacher's answers
    model.register_forward_hook(
        lambda module, _, kwargs, output: None if module.training else teacher.append((kwargs, output)),
        with_kwargs=True,
    )
    trainer.train()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before.get(key, value + 1))}
    assert any("router" in key for key in changed)
    of_narrow = {n for n, p in model.named_parameters() if any(p is q for q in learning_parameters(model)["narrow"])}
    assert recipe == "paper" or of_narrow & changed
    if recipe == "sharcs+" and name == "input_values":
        asked = [kwargs[name].shape[1] for kwargs, _ in teacher if kwargs.get("width") == 1.0][2:]
        # Two batches for importance; then rows by falling length, so that little is padded.
        longest = sorted(samples, reverse=True)
        assert asked == [longest[0], longest[8], longest[16]]


def test_waves_of_like_length_share_a_batch(tmp_path):
    """In the first run, too, where transformers can't tell their lengths."""
    rows = [{"input_values": torch.randn(20 + number), "labels": number % 3} for number in range(64)]
    model = with_own_weights(load_routed("hubert", save_plain("hubert", tmp_path / "plain")))
    counts, waste = [frames(20 + number) for number in range(64)], {}
    for strategy in ("group_by_length", "random"):
        settings = PLUS | {"train_sampling_strategy": strategy}
        trainer = SharcsTrainer(
            model=model, args=arguments(tmp_path, **settings), train_dataset=rows, data_collator=collate
        )
        waste[strategy] = 0
        for batch in trainer.get_train_dataloader():
            lengths = [frames(int(samples)) for samples in batch["attention_mask"].sum(dim=1)]
            waste[strategy] += max(lengths) * len(lengths) - sum(lengths)
    assert trainer.token_counts() == counts
    assert waste["group_by_length"] < 0.8 * waste["random"]
