"""What the encoder's head reads where rows are too few to try it out: what the encoder's own files say."""

import json

import pytest

from helpers.cli import save_encoder, toy_rows
from sharcs import Classifier
from sharcs.jobs.trial import POOLING, declared_readout

QUICK = {"sub_networks": ("recurrent", "full"), "epochs": 1, "max_length": 16}


def encoder_of(folder, content):
    """Save an encoder, with what sentence-transformers writes beside it."""
    save_encoder(folder, layers=2)
    if content is not None:
        (folder / POOLING).parent.mkdir()
        (folder / POOLING).write_text(content, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("content", "readout"),
    [
        (json.dumps({"pooling_mode_mean_tokens": True}), "mean"),
        (json.dumps({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}), "first"),
        (json.dumps({}), "first"),
        ("[]", "first"),
        ("no JSON", "first"),
        (None, "first"),
    ],
)
def test_few_rows_take_the_read_out_that_the_encoder_was_trained_for(tmp_path, content, readout):
    rows = toy_rows(40)
    found = Classifier(encoder_of(tmp_path / "encoder", content), **QUICK).fit(
        [row["text"] for row in rows], [row["label"] for row in rows]
    )
    assert found.trained_.model.config.readout == readout


def test_an_encoder_that_cannot_read_the_mean_reads_the_first_token(tmp_path):
    def load(_readout):
        raise ValueError

    folder = encoder_of(tmp_path / "encoder", json.dumps({"pooling_mode_mean_tokens": True}))
    assert declared_readout(folder, lambda _readout: None) == "mean"
    assert declared_readout(folder, load) == "first"
    assert declared_readout("owner/name", load) == "first"
