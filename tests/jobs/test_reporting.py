"""What a training reports to besides: each run's numbers, in a folder that stays."""

import sys
from types import SimpleNamespace

import pytest
from transformers import Trainer
from transformers.integrations import integration_utils

from helpers.cli import error_message, save_encoder, sharcs, succeeds, toy_rows, write_csv


@pytest.fixture
def command(tmp_path):
    write_csv(tmp_path / "train.csv", toy_rows(24))
    encoder = save_encoder(tmp_path / "encoder", layers=2)
    quick = ("--epochs", 2, "--sub-network-epochs", 1, "--max-length", 16, "--widths", "0.25,1.0")
    return ("train", "--data", tmp_path / "train.csv", "--model", encoder, "--output", tmp_path / "model", *quick)


def test_each_run_has_a_folder_on_tensorboard(command, tmp_path, monkeypatch):
    written = {}

    class Writer:
        def __init__(self, log_dir):
            self.scalars = written.setdefault(log_dir, [])

        def add_scalar(self, name, value, step):
            self.scalars.append((name, step))

        def add_text(self, *_):
            pass

        def flush(self):
            pass

        close = flush

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    succeeds(*command, "--report-to", "tensorboard")
    runs = {
        str(tmp_path / "model" / "runs" / name): epochs
        for name, epochs in {"full-network": 2, "subnetworks": 1}.items()
    }
    assert written.keys() == runs.keys()
    for folder, epochs in runs.items():
        assert [name for name, _ in written[folder]].count("train/loss") == epochs


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tensorboard", "--report-to tensorboard: TensorBoardCallback requires tensorboard to be installed"),
        ("paper", "--report-to paper: is not known; there are azure_ml, "),
    ],
)
def test_what_cannot_be_told_is_refused_before_the_work(command, tmp_path, monkeypatch, name, says):
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("trains"))
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: False)
    assert says in error_message(sharcs(*command, "--report-to", name))
    assert not (tmp_path / "model").exists()
