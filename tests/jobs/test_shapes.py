"""`--sub-networks auto`: what is tried, what is measured of it, and what a training makes of it."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from helpers.cli import error_message, save_encoder, sharcs, succeeds, toy_rows, write_csv
from helpers.tiny import collate
from helpers.tiny import toy_rows as tokenised_rows
from sharcs import InputError, SharcsForSequenceClassification
from sharcs.inference.folder import open_model
from sharcs.jobs import shapes
from sharcs.jobs.defaults import usual_kinds
from sharcs.jobs.shapes import MOST_TIME, Shape, candidates, chosen, measured
from sharcs.jobs.train import TrainingJob, run_training
from sharcs.spec import FRONT_READOUTS, SubnetworkSpec, front_spec, sub_networks_of
from sharcs_runtime.policy import flops


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto")
    write_csv(folder / "train.csv", toy_rows(200))
    write_csv(folder / "held.csv", toy_rows(120, seed=1))
    return folder, save_encoder(folder / "encoder", layers=6)


@pytest.fixture(scope="module")
def tried(files):
    """A model with all shapes in front."""
    _, encoder = files
    plain = SharcsForSequenceClassification.from_encoder(encoder, num_labels=2, widths=(1.0,))
    specs = candidates(plain.encoder.config, usual_kinds(False), pairs=False)
    front = [spec.to_dict() for spec in specs]
    model = SharcsForSequenceClassification.from_encoder(encoder, num_labels=2, widths=(1.0,), front=front)
    return specs, model


def test_auto_stands_alone():
    assert sub_networks_of("auto") == sub_networks_of(["auto"]) == (("auto",), (1.0,))
    with pytest.raises(InputError, match="'auto' is no sub-network"):
        sub_networks_of("recurrent,auto")


def test_shapes_are_tried_around_the_usual_ones(tried):
    specs, model = tried
    assert len({spec.name for spec in specs}) == len(specs)
    by_kind = {kind: [spec for spec in specs if spec.kind == kind] for kind in FRONT_READOUTS}
    assert [len(by_kind[kind]) for kind in ("lexical", "recurrent")] == [1, 4]
    assert len(by_kind["compact"]) >= 3
    for kind, of_kind in by_kind.items():
        usual = front_spec(model.encoder.config, kind).to_dict() | {"name": None}
        assert usual in [spec.to_dict() | {"name": None} for spec in of_kind]
        bare = [tuple(sorted((spec.to_dict() | {"name": None}).items())) for spec in of_kind]
        assert len(set(bare)) == len(bare)
    units = [spec.neurons for spec in by_kind["recurrent"]]
    assert [each / units[1] for each in units] == [0.5, 1, 2, 4]
    pairs = candidates(model.encoder.config, ("recurrent",), pairs=True)
    assert {spec.readout for spec in pairs} == {"matched"}
    assert usual_kinds(True) == ("compact",)


def test_each_shape_is_timed_in_turns_with_the_full_network(tried, monkeypatch):
    specs, model = tried
    rows = tokenised_rows(100)
    order, seconds = [], {}

    def forward(**named):
        order.append(named["width"])
        is_first_round = len(order) <= shapes.BATCHES * len(keys)
        clock[0] += seconds[named["width"]] * len(named["input_ids"]) + 999 * is_first_round
        return SimpleNamespace(logits=torch.zeros(1))

    clock = [0.0]
    keys = [*(spec.name for spec in specs), 1.0]
    seconds = {key: place + 1.0 for place, key in enumerate(keys)}
    monkeypatch.setattr(shapes, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(model, "forward", forward)
    found = measured(model, rows, collate)
    assert [shape.spec.name for shape in found] == keys[:-1]
    assert [shape.time for shape in found] == pytest.approx([seconds[key] / len(keys) for key in keys[:-1]])
    turns = [key for key, _ in itertools.groupby(order)]
    assert turns == keys * (shapes.ROUNDS + 1)
    assert not model.training


def test_its_cost_is_that_of_rows_of_middling_lengths(tried):
    specs, model = tried
    rows = tokenised_rows(100)
    found = measured(model, rows, collate)
    lengths = sorted(len(row["input_ids"]) for row in rows)[18:82]
    every = flops(model.cost_coefficients(), torch.tensor(lengths)).sum(0)
    assert [shape.cost for shape in found] == pytest.approx((every[: len(specs)] / every[-1]).tolist())
    assert all(shape.time > 0 for shape in found)


def shape(kind, number, cost, time):
    spec = SubnetworkSpec(f"{kind}{number}", kind, 0.0, 1, 0, number, 8, "tokens", "mean")
    return Shape(spec, cost, time)


def test_of_each_kind_the_largest_that_is_fast_enough_is_taken():
    limit = MOST_TIME["recurrent"]
    found = chosen(
        [
            shape("recurrent", 1, 0.01, 0.5 * limit),
            shape("recurrent", 2, 0.03, limit),
            shape("recurrent", 3, 0.02, 0.9 * limit),
            shape("recurrent", 4, 0.09, 1.1 * limit),
            shape("compact", 5, 0.2, 0.9),
            shape("compact", 6, 0.3, 0.8),
        ]
    )
    assert [(each.spec.name, each.spec.neurons) for each in found] == [("recurrent", 2), ("compact", 6)]


class Stop(TrainerCallback):
    """Ends a training as an interruption would, once something of the later run is saved."""

    def on_save(self, args, state, control, **kwargs):  # noqa: D102
        if "front" in args.output_dir:
            raise KeyboardInterrupt


def job_of(files, output, **more):
    folder, encoder = files
    return TrainingJob(
        data=str(folder / "train.csv"), validation=str(folder / "held.csv"), output=output, model=str(encoder),
        front=("auto",), widths=(1.0,), epochs=1, sub_network_epochs=1, max_length=16, readout="first", **more,
    )  # fmt: skip


def test_a_training_puts_them_in_front_and_a_resumed_one_keeps_them(files, tmp_path, monkeypatch):
    def odd(model, rows, collate):
        """Let the smallest recurrent one and the last compact one be the only fast ones."""
        specs = model.config.specs[:-1]
        last = max(number for number, spec in enumerate(specs) if spec.kind == "compact")
        return [
            Shape(spec, number + 1.0, 0.0 if number == last or spec.name in ("lexical0", "recurrent0") else 1.0)
            for number, spec in enumerate(specs)
        ]

    monkeypatch.setattr(shapes, "measured", odd)
    said = []
    with pytest.raises(KeyboardInterrupt):
        run_training(job_of(files, tmp_path / "out"), [Stop()], said.append)
    usual = front_spec(open_encoder(files), "recurrent")
    assert any(f"recurrent of {usual.neurons // 2} units 0.0%" in line for line in said)
    stored = json.loads((tmp_path / "out" / "training.json").read_text())["shapes"]
    monkeypatch.setattr(shapes, "measured", None)  # nothing is measured again
    trained = run_training(job_of(files, tmp_path / "out", resume=True), [])
    assert [spec.to_dict() for spec in trained.model.config.specs[:-1]] == stored
    assert trained.model.config.specs[1].neurons == usual.neurons // 2
    assert open_model(tmp_path / "out").model.config.names == ["lexical", "recurrent", "compact", "full"]


def test_what_is_no_record_of_a_training_is_not_gone_on_with(files, tmp_path):
    folder, encoder = files
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "training.json").write_text('{"shapes": [')
    run = sharcs(
        "train", "--data", folder / "train.csv", "--model", encoder, "--output", tmp_path / "model", "--resume",
        "--sub-networks", "auto", "--validation", folder / "held.csv",
    )  # fmt: skip
    assert "training.json: is no valid JSON" in error_message(run)


def open_encoder(files):
    return SharcsForSequenceClassification.from_encoder(files[1], num_labels=2, widths=(1.0,)).encoder.config


def test_the_command_says_what_it_has_found(files, tmp_path):
    folder, encoder = files
    run = succeeds(
        "train", "--data", folder / "train.csv", "--model", encoder, "--output", tmp_path / "model", "--epochs", 1,
        "--max-length", 16, "--sub-networks", "auto", "--validation", folder / "held.csv", "--readout", "first",
        "--sub-network-epochs", 1,
    )  # fmt: skip
    assert "in front, with their share of the full network's time here: lexical " in run.err
    assert open_model(tmp_path / "model").model.config.names == ["lexical", "recurrent", "compact", "full"]


def test_what_has_no_class_for_an_answer_is_refused(files, tmp_path):
    folder, encoder = files
    run = sharcs(
        "train", "--data", folder / "train.csv", "--model", encoder, "--output", tmp_path / "model",
        "--sub-networks", "auto", "--recipe", "paper",
    )  # fmt: skip
    assert "the paper's recipe has none" in error_message(run)
    assert not (tmp_path / "model").exists()
