"""Settings: what is refused and with which words, defaults, and the way through a file."""

import json

import pytest
from transformers import AutoConfig, BertConfig

from helpers.encoders import ENCODERS, load_routed
from sharcs import InputError, RoutingPolicy, SharcsConfig, SharcsForSequenceClassification


def bert(layers=12, heads=12):
    return BertConfig(num_hidden_layers=layers, num_attention_heads=heads, hidden_size=24, intermediate_size=48)


@pytest.mark.parametrize(
    ("settings", "field", "remedy"),
    [
        ({"widths": []}, "widths", "1.0"),
        ({"widths": [0.25, 0.5]}, "widths", "1.0"),
        ({"widths": [1.0, 0.25]}, "widths", "1.0"),
        ({"widths": [0.5, 0.25, 1.0]}, "widths", "sort"),
        ({"widths": [0.5, 0.5, 1.0]}, "widths", "repeat"),
        ({"widths": [0.0, 1.0]}, "widths", "above 0"),
        ({"widths": [-0.25, 1.0]}, "widths", "above 0"),
        ({"widths": [1.25, 1.0]}, "widths", "at most 1"),
        ({"widths": [float("nan"), 1.0]}, "widths", "above 0"),
        ({"widths": [0.3, 1.0]}, "widths", "12 attention heads"),
        ({"widths": [0.01, 1.0]}, "widths", "12 attention heads"),
        ({"widths": [0.33, 0.34, 1.0]}, "widths", "same number"),
        ({"widths": ["narrow", 1.0]}, "widths", ""),
        ({"router_layer": 0}, "router_layer", "1 to 11"),
        ({"router_layer": 12}, "router_layer", "1 to 11"),
        ({"router_layer": -1}, "router_layer", "1 to 11"),
        ({"router_layer": 2.5}, "router_layer", "1 to 11"),
        ({"router_hidden_size": 0}, "router_hidden_size", "at least 1"),
        ({"router_hidden_size": "many"}, "router_hidden_size", "at least 1"),
        ({"router_layer": True}, "router_layer", "has to be from 1"),
        ({"policy": 5}, "policy", "unknown setting"),
        ({"policy": {"costs": 1.0}}, "policy", "cost_weight"),
        ({"policy": {"cost_weight": float("nan")}}, "cost_weight", "finite"),
        ({"policy": {"cost_weight": float("inf")}}, "cost_weight", "finite"),
        ({"policy": {"cost_weight": "much"}}, "cost_weight", ""),
    ],
)
def test_a_bad_setting_is_refused_by_name(settings, field, remedy):
    with pytest.raises(InputError) as caught:
        SharcsConfig(encoder=bert(), **settings)
    message = str(caught.value)
    assert field in message
    assert remedy in message
    assert "\n" not in message


def test_an_encoder_of_one_layer_is_refused():
    with pytest.raises(InputError, match="router_layer"):
        SharcsConfig(encoder=bert(layers=1))


@pytest.mark.parametrize("widths", [[0.33, 1.0], [0.25, 0.33, 0.5, 0.67, 1.0], [1.0], (0.5, 1)])
def test_widths_that_give_whole_heads_are_accepted(widths):
    config = SharcsConfig(encoder=bert(), widths=widths)
    assert config.widths == list(widths)
    assert all(isinstance(width, float) for width in config.widths)


@pytest.mark.parametrize(("layers", "k"), [(12, 3), (24, 6), (6, 2), (4, 1), (3, 1), (2, 1)])
def test_the_default_router_layer_is_the_papers_scaled_to_the_depth(layers, k):
    assert SharcsConfig(encoder=bert(layers=layers)).router_layer == k


def test_the_other_defaults_are_the_papers():
    config = SharcsConfig(encoder=bert())
    assert config.widths == [0.25, 1.0]
    assert config.router_hidden_size == 1024
    assert config.routing_policy == RoutingPolicy(cost_weight=0.0)


def test_index_of_finds_each_width_and_names_the_choices_otherwise():
    config = SharcsConfig(encoder=bert(), widths=[0.33, 0.5, 1.0])
    assert [config.index_of(width) for width in (0.33, 0.5, 1)] == [0, 1, 2]
    with pytest.raises(InputError, match=r"0\.4.*0\.33, 0\.5, 1"):
        config.index_of(0.4)


def test_settings_survive_a_file(family, tmp_path):
    config = SharcsConfig(
        encoder=ENCODERS[family](),
        widths=[0.5, 1.0],
        router_layer=2,
        router_hidden_size=17,
        policy={"cost_weight": -0.25},
        id2label={0: "calm", 1: "tense", 2: "odd"},
        label2id={"calm": 0, "tense": 1, "odd": 2},
        problem_type="multi_label_classification",
    )
    config.save_pretrained(tmp_path)
    for loaded in (SharcsConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is SharcsConfig
        assert type(loaded.encoder) is type(ENCODERS[family]())
        assert loaded.widths == [0.5, 1.0]
        assert (loaded.router_layer, loaded.router_hidden_size) == (2, 17)
        assert loaded.routing_policy == RoutingPolicy(cost_weight=-0.25)
        loaded.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "config.json").read_text()


def test_the_file_is_json_that_names_the_fields(bert_path, tmp_path):
    load_routed(bert_path).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "sharcs"
    assert saved["encoder"]["model_type"] == "bert"
    assert saved["format"] == 2
    assert [spec["name"] for spec in saved["subnetworks"]] == ["width-25", "width-50", "full"]
    assert [(spec["kind"], spec["width"], spec["heads"]) for spec in saved["subnetworks"]] == [
        ("shared", 0.25, 1),
        ("shared", 0.5, 2),
        ("full", 1.0, 4),
    ]
    assert saved["router"] == {"after_layer": 1, "hidden_size": 1024}
    assert saved["policy"] == {"cost_weight": 0.0}


def test_a_bad_setting_in_a_file_is_refused(bert_path, tmp_path):
    load_routed(bert_path).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"router_layer": 9}))
    with pytest.raises(InputError, match="router_layer 9"):
        SharcsForSequenceClassification.from_pretrained(tmp_path)


def test_the_number_of_labels_reaches_the_head(bert_path, tmp_path):
    model = SharcsForSequenceClassification.from_encoder(
        bert_path, router_layer=1, num_labels=5, ignore_mismatched_sizes=True
    )
    model.save_pretrained(tmp_path)
    for routed in (model, SharcsForSequenceClassification.from_pretrained(tmp_path)):
        assert routed.config.num_labels == routed.config.encoder.num_labels == 5
        assert routed.encoder.classifier.out_features == 5


def test_label_names_reach_the_config_of_the_encoder_and_the_file(bert_path, tmp_path):
    names = {0: "calm", 1: "tense"}
    model = SharcsForSequenceClassification.from_encoder(
        bert_path, router_layer=1, id2label=names, ignore_mismatched_sizes=True
    )
    model.save_pretrained(tmp_path)
    for routed in (model, SharcsForSequenceClassification.from_pretrained(tmp_path)):
        for config in (routed.config, routed.config.encoder, routed.encoder.config):
            assert config.id2label == names
            assert config.label2id == {"calm": 0, "tense": 1}
        assert routed.encoder.classifier.out_features == 2


def test_the_problem_type_reaches_the_encoder_and_the_file(bert_path, tmp_path):
    model = SharcsForSequenceClassification.from_encoder(
        bert_path, router_layer=1, problem_type="multi_label_classification"
    )
    model.save_pretrained(tmp_path)
    for routed in (model, SharcsForSequenceClassification.from_pretrained(tmp_path)):
        assert routed.config.problem_type == routed.encoder.config.problem_type == "multi_label_classification"


def test_the_labels_of_the_checkpoint_are_kept_by_default(bert_path):
    model = SharcsForSequenceClassification.from_encoder(bert_path, router_layer=1)
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize("names", [["calm", "tense"], [f"topic {index}" for index in range(5)]])
def test_the_task_of_the_outer_configuration_shapes_the_head(names):
    by_index = dict(enumerate(names))
    config = SharcsConfig(
        encoder=ENCODERS["bert"](),
        id2label=by_index,
        label2id={name: index for index, name in by_index.items()},
        problem_type="multi_label_classification",
    )
    model = SharcsForSequenceClassification(config)
    assert model.encoder.classifier.out_features == len(names)
    assert model.encoder.config.id2label == by_index
    assert model.encoder.config.problem_type == "multi_label_classification"


def test_labels_are_the_encoders_unless_others_are_given():
    names = {0: "no", 1: "maybe", 2: "yes"}
    encoder = AutoConfig.for_model("bert", id2label=names, label2id={name: index for index, name in names.items()})
    assert SharcsConfig(encoder=encoder).id2label == names
    assert encoder.id2label == names
    assert SharcsConfig(encoder=encoder, num_labels=5).num_labels == 5
