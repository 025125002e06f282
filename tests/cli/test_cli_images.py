"""Images at the command line: answers as plain transformers and Pillow give, and what can't be had in one line."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, Trainer, ViTConfig, ViTImageProcessorPil, ViTModel
from transformers.image_utils import load_image

from helpers.cli import error_message, files_in, read_csv, save_encoder, sharcs, succeeds, write_csv
from sharcs import SharcsForImageClassification
from sharcs.data.images.pixels import pixels_of
from sharcs.data.texts import Columns
from sharcs.inference.images import open_image_stream
from sharcs.training.subnetworks import SubnetworkTrainer

COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 40, 50)}
QUICK = ("--epochs", 4, "--sub-network-epochs", 2, "--batch-size", 12, "--learning-rate", 3e-3)
EACH = 8


def save_images(folder, seed):
    """Save noise around a colour a class; some are grey or have an alpha channel; sizes differ."""
    generator = np.random.default_rng(seed)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(EACH):
            noise = generator.integers(-40, 40, (9 + number, 12, 3))
            image = Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
            image = image.convert({1: "RGBA", 2: "L"}.get(number, "RGB"))
            image.save(folder / label / f"{number}.{'png' if number else 'jpg'}")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Images in folders and in a table, encoders, and a model that routes."""
    folder = tmp_path_factory.mktemp("images")
    photos = save_images(folder / "photos", 0)
    (photos / "notes.txt").write_text("no image", encoding="utf-8")
    save_images(folder / "more", 1)
    paths = sorted((folder / "more").rglob("*.*"))
    rows = [
        {"id": n, "photo": str(path.relative_to(folder)), "label": path.parent.name} for n, path in enumerate(paths)
    ]
    write_csv(folder / "rows.csv", rows)
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder / "vit")
    save_encoder(folder / "bert", layers=2)
    command = ("train", "--data", photos, "--model", folder / "vit", "--sub-networks", "compact,0.25,1.0")
    succeeds(*command, "--output", folder / "model", *QUICK)
    limits = {}
    for name, part in {"compact": 0.5, "width-25": 0.1}.items():  # so that each of the three answers some
        scores = [score for _, score, _ in one_by_one(folder / "model", paths, width=name)]
        limits[name] = float(np.quantile(scores, part))
    settle(folder / "model", {"start": "compact", "escalation_threshold": limits})
    return folder


def settle(model, policy):
    """Give a model a policy."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["policy"] = {**config["policy"], **policy}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")


@torch.inference_mode()
def one_by_one(folder, paths, **options):
    """Answer images alone, read by transformers' own reader: names, probabilities, who answered."""
    model = SharcsForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = []
    for path in paths:
        output = model(**processor(load_image(str(path)), return_tensors="pt"), **options)
        score, index = output.logits[0].softmax(-1).max(-1)
        found.append((model.config.id2label[int(index)], float(score), model.config.names[int(output.width_index)]))
    return found


@pytest.mark.parametrize("width", [None, "compact", "0.25", "1.0"])
def test_answers_are_those_of_images_one_by_one(home, tmp_path, monkeypatch, width):
    """From a table elsewhere, whose paths are relative to it."""
    monkeypatch.chdir(tmp_path)
    forced = () if width is None else ("--width", width)
    command = ("predict", home / "model", "--data", home / "rows.csv", "--image-column", "photo")
    succeeds(*command, "--output", "out.csv", *forced)
    rows, given = read_csv("out.csv"), read_csv(home / "rows.csv")
    assert [{name: row[name] for name in given[0]} for row in rows] == given
    options = {} if width is None else {"width": width if width == "compact" else float(width)}
    truth = one_by_one(home / "model", [home / row["photo"] for row in given], **options)
    assert [(row["prediction"], row["sub_network"]) for row in rows] == [(name, who) for name, _, who in truth]
    assert [float(row["score"]) for row in rows] == pytest.approx([score for _, score, _ in truth], abs=1e-5)
    if width is None:
        assert len({row["sub_network"] for row in rows}) == 3


def test_a_folder_is_a_table_of_its_images(home, tmp_path):
    succeeds("predict", home / "model", "--data", home / "photos", "--output", tmp_path / "out.csv", "--scores")
    rows = read_csv(tmp_path / "out.csv")
    paths = sorted(str(path.relative_to(home / "photos")) for path in (home / "photos").rglob("*.[jp]*g"))
    assert [row["image"] for row in rows] == paths
    assert [row["label"] for row in rows] == [path.partition("/")[0] for path in paths]
    assert all(float(row[f"score_{row['prediction']}"]) == float(row["score"]) for row in rows)


def test_accuracies_are_those_of_images_one_by_one(home, tmp_path):
    command = ("evaluate", home / "model", "--data", home / "rows.csv", "--image-column", "photo")
    succeeds(*command, "--json", tmp_path / "e.json")
    report = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    rows = read_csv(home / "rows.csv")
    for of, options in (
        (report["routed"], {}),
        (report["full"], {"width": 1.0}),
        (report["widths"][1], {"width": 0.25}),
    ):
        answers = one_by_one(home / "model", [home / row["photo"] for row in rows], **options)
        right = [name == row["label"] for (name, *_), row in zip(answers, rows, strict=True)]
        assert of["accuracy"] == pytest.approx(np.mean(right))
    assert report["full"]["accuracy"] > 0.6  # chance is a third


def test_a_policy_is_calibrated_and_reported(home, tmp_path):
    model = shutil.copytree(home / "model", tmp_path / "model")
    succeeds("calibrate", model, "--data", home / "photos", "--budget", 0.9)
    calibration = json.loads((model / "config.json").read_text(encoding="utf-8"))["calibration"]
    assert (calibration["met"], calibration["rows"]) == (True, len(COLOURS) * EACH)
    succeeds("report", model, "--data", home / "photos", "--output", tmp_path / "page.html")
    assert "photos" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_images_are_upright_and_in_the_channels_of_the_encoder(tmp_path):
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    truth = processor(load_image(str(tmp_path / "turned.png")), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(pixels_of(str(tmp_path / "turned.png"), processor, 3, ""), truth)
    grey = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    assert pixels_of(str(tmp_path / "turned.png"), grey, 1, "").shape == (1, 8, 8)


def test_an_image_that_is_written_again_is_another(home, tmp_path):
    shutil.copytree(home / "more", tmp_path / "more")
    stream = open_image_stream(str(tmp_path / "more"), Columns("image"))
    ((_, files),) = stream.windows(100)
    before = stream.identity(files)
    assert before == stream.identity(files)
    (tmp_path / "more" / "red" / "3.png").write_bytes((home / "photos" / "blue" / "3.png").read_bytes())
    assert stream.identity(files) != before


def test_a_training_does_not_go_on_with_other_images(home, tmp_path, monkeypatch):
    photos = shutil.copytree(home / "photos", tmp_path / "photos")
    command = ("train", "--data", photos, "--model", home / "vit", "--output", tmp_path / "model", *QUICK)
    command = (*command, "--widths", "0.25,1.0")
    with monkeypatch.context() as patched:
        patched.setattr(SubnetworkTrainer, "begin", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert sharcs(*command).code == 130
    original = (photos / "red" / "3.png").read_bytes()
    (photos / "red" / "3.png").write_bytes((photos / "blue" / "4.png").read_bytes())
    assert "rows" in error_message(sharcs(*command, "--resume"))
    (photos / "red" / "3.png").write_bytes(original)
    succeeds(*command, "--resume")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("export model --output out", "model: is a model of images, which"),
        ("benchmark model --data photos", "model: is a model of images, which"),
        ("predict model --data photos --output folder", "of images one table is written"),
        ("predict model --data photos --data more --output out.csv", "photos: may be several tables"),
        ("predict model --data rows.csv --output out.csv", "no column 'image'"),
        ("predict model --data rows.csv --image-column label --output out.csv", "row 1: the image 'blue' is no file"),
        ("predict model --data rows.csv --image-column id --output out.csv", "row 1: the image '0' is no file"),
        ("predict model --data bad --output out.csv", "bad: row 2: the image"),
        ("predict model --data empty --output out.csv", "empty: the folder holds no images"),
        ("evaluate model --data rows.csv --text-column photo", "--text-column photo: the model reads images"),
        ("calibrate model --data photos --max-samples 3 --budget 0.5", "of images one table or folder is taken"),
        ("train --data photos --model bert", "--model bert: no image encoder with a preprocessor_config.json"),
        ("train --data rows.csv --text-column photo --model vit", "--model vit: is an encoder of images; name the"),
        ("train --data photos --text-column image --model vit", "--text-column image: the model reads images"),
        (
            "train --data photos --model vit --sub-networks recurrent,full",
            "front recurrent: reads the tokens of texts",
        ),
        ("train --data photos --model vit --sub-networks compact,full --unlabelled more", "is for texts"),
        ("train --data photos --model vit --readout mean", "readout mean"),
        ("train --data photos --model vit --eval-data bad", "bad: row 2: the image"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(home, monkeypatch, command, says):
    (home / "empty" / "sub").mkdir(parents=True, exist_ok=True)
    for label in COLOURS:
        (home / "bad" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(home / "photos" / label / "3.png", home / "bad" / label)
    (home / "bad" / "green" / "3.png").write_bytes(b"no image")
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("trains"))
    monkeypatch.chdir(home)
    before = files_in(home)
    words = [*command.split(), *(("--output", "new") if command.startswith("train") else ())]
    assert says in error_message(sharcs(*words))
    assert files_in(home) == before


def test_an_image_that_ends_too_early_stops_the_work_and_leaves_nothing(home, tmp_path):
    photos = shutil.copytree(home / "photos", tmp_path / "photos")
    content = (photos / "green" / "0.jpg").read_bytes()
    (photos / "green" / "0.jpg").write_bytes(content[: len(content) // 2])
    message = error_message(sharcs("predict", home / "model", "--data", photos, "--output", tmp_path / "out.csv"))
    assert "green/0.jpg can't be read" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
