"""The full network as a plain Hugging Face directory: transformers alone gives the same answers."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ViTImageProcessorPil,
    pipeline,
)

from helpers import media
from helpers.cli import MAX_LENGTH, error_message, files_in, one_by_one, read_csv, sharcs, succeeds, toys_fixture  # noqa: F401
from helpers.encoders import load_plain, load_routed, make_batch
from sharcs import InputError, SharcsForSequenceClassification
from sharcs.export.plain import export_plain


class Nothing:
    """Stands in for a tokenizer."""

    def save_pretrained(self, folder):
        """Save nothing."""


def test_the_weights_of_every_family_are_the_plain_ones(family, plain_path, tmp_path):
    model = load_routed(plain_path)
    export_plain(model, Nothing(), tmp_path / "out", "full")
    before, after = load_file(f"{plain_path}/model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    batch = make_batch(model.encoder.config, [3, 7, 5])
    with torch.no_grad():
        found = load_plain(tmp_path / "out")(**batch).logits
        assert torch.equal(found, load_plain(plain_path)(**batch).logits)
        assert torch.allclose(found, model(**batch, width=1.0).logits, atol=1e-6)


@torch.inference_mode()
def test_a_trained_network_answers_alike_without_this_library(toys, tmp_path):
    before = files_in(toys.model)
    succeeds("export", toys.model, "--output", tmp_path / "out", "--sub-network", "full", "--format", "transformers")
    assert files_in(toys.model) == before
    texts = [row["text"] for row in read_csv(toys.test)]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.model_max_length == MAX_LENGTH
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert not isinstance(plain, SharcsForSequenceClassification)
    classify = pipeline("text-classification", model=plain, tokenizer=tokenizer)
    expected = one_by_one(toys.model, texts, width=1.0)
    found = classify(texts, truncation=True)
    assert [one["label"] for one in found] == [name for name, _, _ in expected]
    assert [one["score"] for one in found] == pytest.approx([score for _, score, _ in expected], abs=1e-6)


def test_images_have_their_processor_beside(tmp_path):
    model = media.load_routed("vit", media.save_plain("vit", tmp_path / "plain"))
    export_plain(model, ViTImageProcessorPil(size={"height": 8, "width": 8}), tmp_path / "out", 1.0)
    batch = media.make_batch("vit")
    with torch.no_grad():
        assert torch.equal(
            media.load_plain("vit", tmp_path / "out")(**batch).logits, model(**batch, width=1.0).logits
        )
    assert AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil").size["height"] == 8


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--format", "transformers"), "--format transformers: is one sub-network"),
        (("--format", "keras"), "--format keras: has to be onnx, transformers or optimum"),
        (("--format", "transformers", "--sub-network", "full", "--int8"), "--int8: is for onnx"),
        (
            ("--format", "transformers", "--width", "0.25"),
            "width-25: has 1 heads in its last layers alone, which a Bert",
        ),
        (("--format", "transformers", "--sub-network", "compact"), "compact"),
    ],
)
def test_what_a_plain_directory_cannot_hold_is_refused(toys, tmp_path, options, says):
    assert says in error_message(sharcs("export", toys.model, "--output", tmp_path / "out", *options))
    assert list(tmp_path.iterdir()) == []


def test_other_readouts_and_networks_in_front_are_refused(bert_path, tmp_path):
    model = load_routed(bert_path, readout="mean")
    with pytest.raises(InputError, match="reads the mean of the tokens"):
        export_plain(model, Nothing(), tmp_path / "out", "full")
    model = SharcsForSequenceClassification.from_encoder(bert_path, front=("compact",))
    with pytest.raises(InputError, match="compact: runs before the encoder, which a BertForSequenceClassification"):
        export_plain(model, Nothing(), tmp_path / "out", "compact")
