"""Checked texts, labels and tokens, against values written by hand and direct calls of the tokenizer."""

import math
import time
import warnings
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sharcs.data.named import minilm_path
from sharcs.data.texts import Columns, TextData, label_names, load_texts
from sharcs.data.tokens import tokenise
from sharcs.errors import InputError


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(minilm_path())


def save(tmp_path, **columns):
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table(columns), path)
    return path


def made(texts, labels=None, pairs=None):
    return TextData(pa.table({"text": texts}), texts, pairs, labels, "made")


def refuses(call, *parts):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# load_texts


def test_loads_texts_and_labels(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('text,label,other\n"a, b",x,1\n c ,y,2\n')
    data = load_texts(str(path))
    assert (data.texts, data.labels, data.pairs) == (["a, b", " c "], ["x", "y"], None)
    assert data.table.column_names == ["text", "label", "other"]
    assert len(data) == 2
    assert data.source == str(path)
    assert [data.row(0), data.row(1)] == [1, 2]


def test_columns_are_chosen_by_name(tmp_path):
    source = save(tmp_path, text=["no"], label=["no"], body=["yes"], other=["too"], kind=["k"])
    data = load_texts(source, Columns(text="body", text_pair="other", label="kind"))
    assert (data.texts, data.pairs, data.labels) == (["yes"], ["too"], ["k"])


def test_text_pair_is_used_if_it_is_there(tmp_path):
    source = save(tmp_path, text=["a"], text_pair=["b"], label=["x"])
    assert load_texts(source).pairs == ["b"]
    assert load_texts(source, Columns(text="text_pair")).pairs is None
    refuses(lambda: load_texts(source, Columns(text_pair="premise")), "no column 'premise'", "`text_pair_column`")


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        (Columns(text="body"), "no column 'body'; it has 'text', 'label'; name the text column with `text_column`"),
        (
            Columns(label="kind"),
            "no column 'kind'; it has 'text', 'label'; name the label column with `label_column`",
        ),
    ],
)
def test_missing_columns_are_named(tmp_path, columns, part):
    source = save(tmp_path, text=["a"], label=["x"])
    refuses(lambda: load_texts(source, columns), f"{source}: {part}")


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        (["a", "b", None], "row 3: the text is missing (column 'text')"),
        (["a", ""], "row 2: the text is empty (column 'text')"),
        (["a", "\u3000 \n\t"], "row 2: the text is empty (column 'text')"),
        (pa.nulls(2), "row 1: the text is missing"),
        ([1, 2], "the text column 'text' holds int64, not text"),
        ([1.0, math.nan], "the text column 'text' holds double, not text"),
        ([["a"], ["b"]], "the text column 'text' holds list<"),
    ],
)
def test_rows_without_text(tmp_path, texts, part):
    source = save(tmp_path, text=texts, label=["x"] * len(texts))
    refuses(lambda: load_texts(source), source, part)
    source = save(tmp_path, text=["a"] * len(texts), text_pair=texts, label=["x"] * len(texts))
    refuses(
        lambda: load_texts(source), source, part.replace("the text", "the text pair").replace("'text'", "'text_pair'")
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["b", "a", "b"], ["b", "a", "b"]),
        ([10, -1, 2], ["10", "-1", "2"]),
        (pa.array([10, 1, 2], pa.uint8()), ["10", "1", "2"]),
        ([True, False, True], ["True", "False", "True"]),
        ([1.0, 2.0, -0.0], ["1", "2", "0"]),
        (pa.array([1.0, 2.0, 3.0], pa.float32()), ["1", "2", "3"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array(["x", "y", "x"], pa.large_string()), ["x", "y", "x"]),
    ],
)
def test_labels_become_strings(tmp_path, labels, expected):
    assert load_texts(save(tmp_path, text=["a", "b", "c"], label=labels)).labels == expected


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        (["x", None, "y"], "row 2: the label is missing (column 'label')"),
        (["x", "y", " "], "row 3: the label is missing"),
        ([1, None, 2], "row 2: the label is missing"),
        ([1.0, 2.0, math.nan], "row 3: the label is missing"),
        (pa.nulls(3), "row 1: the label is missing"),
        ([1.0, 2.5, 3.0], "row 2: the label 2.5 (column 'label') is not a class; give `regression` to learn numbers"),
        ([1.0, 2.0, math.inf], "row 3: the label inf (column 'label') is not a class; give `regression`"),
        ([{"x": 1}, {"x": 2}, {"x": 3}], "the label column 'label' holds struct<"),
        ([["x"], ["y"], None], "row 3: the labels None (column 'label') are no list"),
    ],
)
def test_bad_labels(tmp_path, labels, part):
    source = save(tmp_path, text=["a", "b", "c"], label=labels)
    refuses(lambda: load_texts(source), source, part)
    assert load_texts(source, labelled=False).labels is None


def test_lists_are_sets_of_labels(tmp_path):
    data = load_texts(save(tmp_path, text=["a", "b", "c"], label=[["y", "x", "y"], [], ["é"]]))
    assert data.labels == ['["x", "y"]', "[]", '["é"]']
    assert label_names(data) == ["x", "y", "é"]


def test_labels_are_optional_when_unlabelled(tmp_path):
    assert load_texts(save(tmp_path, text=["a", "b"]), labelled=False).labels is None
    assert load_texts(save(tmp_path, text=["a", "b"], label=["x", "y"]), labelled=False).labels == ["x", "y"]


def jsonl(tmp_path, *rows):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    return str(path)


def test_texts_and_labels_of_jsonl_are_taken_by_key(tmp_path):
    """What stands under other keys doesn't matter, whatever it is."""
    odd = ["9223372036854775808", '"A8"', "1.5", '{"a": 1}', r'"\ud800"', "null", "[1]"]
    labels = ['"x"', "1", "true", "2.0", r'"\u00e9"', "1" * 20, "-3"]
    rows = [f'{{"id": {value}, "text": "t", "label": {label}}}' for value, label in zip(odd, labels, strict=True)]
    data = load_texts(jsonl(tmp_path, *rows))
    assert data.labels == ["x", "1", "True", "2", "é", "1" * 20, "-3"]
    assert data.table["id"].to_pylist() == ["9223372036854775808", "A8", "1.5", '{"a": 1}', r'"\ud800"', None, "[1]"]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ('{"text": 3, "label": "a"}', "row 2: the text '3' is no string (column 'text'); correct it or drop the row"),
        ('{"text": ["a"], "label": "a"}', "row 2: the text '[\"a\"]' is no string"),
        (r'{"text": "a \ud800", "label": "a"}', "row 2: the text"),
        ('{"text": null, "label": "a"}', "row 2: the text is missing"),
        ('{"label": "a"}', "row 2: the text is missing"),
        ('{"text": NaN, "label": "a"}', "row 2: the text is missing"),
        ('{"text": " ", "label": "a"}', "row 2: the text is empty"),
        ('{"text": "t", "label": null}', "row 2: the label is missing"),
        ('{"text": "t", "label": NaN}', "row 2: the label is missing"),
        ('{"text": "t"}', "row 2: the label is missing"),
        ('{"text": "t", "label": 0.5}', "row 2: the label 0.5 (column 'label') is not a class; give `regression`"),
        ('{"text": "t", "label": Infinity}', "row 2: the label inf (column 'label') is not a class"),
        ('{"text": "t", "label": {"a": 1}}', "row 2: the label '{\"a\": 1}' is no string"),
        (r'{"text": "t", "label": "\udfff"}', "row 2: the label"),
    ],
)
def test_bad_rows_of_jsonl(tmp_path, row, part):
    source = jsonl(tmp_path, '{"text": "t", "label": "a"}', row)
    refuses(lambda: load_texts(source), f"{source}: {part}")


def test_class_labels_of_datasets_become_their_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    path = str(tmp_path / "t.parquet")
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(path)
    assert load_texts(path).labels == ["yes", "no"]
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features).to_parquet(path)
    refuses(lambda: load_texts(path), "row 2: the label is missing")
    assert load_texts(path, labelled=False).labels is None


# max_samples


def test_subset_is_stratified_in_order_and_seeded(tmp_path):
    labels = ["a" if i % 4 else "b" for i in range(400)]
    source = save(tmp_path, text=[f"t{i}" for i in range(400)], text_pair=[f"p{i}" for i in range(400)], label=labels)
    data = load_texts(source, max_samples=40, seed=1)
    numbers = [int(text[1:]) for text in data.texts]
    assert numbers == sorted(set(numbers))
    assert Counter(data.labels) == {"a": 30, "b": 10}
    assert data.labels == [labels[i] for i in numbers]
    assert data.pairs == [f"p{i}" for i in numbers]
    assert data.table["text"].to_pylist() == data.texts
    assert [data.row(i) for i in range(40)] == [i + 1 for i in numbers]
    assert load_texts(source, max_samples=40, seed=1).texts == data.texts
    assert load_texts(source, max_samples=40, seed=2).texts != data.texts


def imbalanced(tmp_path):
    """Write a class of one row beside large ones, and a middling one; the numbers are those of a user's report."""
    labels = ["a"] * 500 + ["b"] * 484 + ["c"] * 15 + ["d"]
    return save(tmp_path, text=[f"t{i}" for i in range(1000)], label=labels)


@pytest.mark.parametrize("seed", range(8))
def test_a_class_of_one_row_does_not_spoil_the_others_shares(tmp_path, seed):
    counts = Counter(load_texts(imbalanced(tmp_path), max_samples=100, seed=seed).labels)
    assert counts in [{"a": 49 + more, "b": 49 - more, "c": 1, "d": 1} for more in (0, 1)]
    counts = Counter(load_texts(imbalanced(tmp_path), max_samples=60, seed=seed).labels)
    assert counts in [{"a": 30 - less, "b": 28 + less, "c": 1, "d": 1} for less in (0, 1)]


def test_every_row_is_drawn_about_as_often_as_any_other_of_its_class(tmp_path):
    source = save(tmp_path, text=[f"t{i}" for i in range(12)], label=["a"] * 8 + ["b"] * 4)
    drawn = Counter(text for seed in range(600) for text in load_texts(source, max_samples=3, seed=seed).texts)
    assert set(drawn) == {f"t{i}" for i in range(12)}
    # Of 600 draws each row is in a fourth; four standard deviations of a binomial count.
    assert all(abs(count - 150) < 4 * (600 * 0.25 * 0.75) ** 0.5 for count in drawn.values())


@pytest.mark.parametrize("count", [1, 4, 19])
def test_more_classes_than_rows(tmp_path, count):
    """Which classes get a row is drawn, and the others are named."""
    source = save(tmp_path, text=[f"t{i}" for i in range(40)], label=[f"c{i // 2:02}" for i in range(40)])
    drawn = set()
    for seed in range(40):
        with pytest.warns(UserWarning, match=f"no row of the classes 'c.*is among the {count} taken"):
            labels = load_texts(source, max_samples=count, seed=seed).labels
        assert len(set(labels)) == len(labels) == count
        drawn |= set(labels)
    assert len(drawn) > 10


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.sampled_from("aaaabbc"), min_size=2, max_size=60), data=st.data())
def test_subsets_have_each_class_by_its_share(tmp_path_factory, labels, data):
    count = data.draw(st.integers(1, len(labels)))
    source = save(tmp_path_factory.mktemp("t"), text=[f"t{i}" for i in range(len(labels))], label=labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subset = load_texts(source, max_samples=count)
    sizes, drawn = Counter(labels), Counter(subset.labels)
    assert len(subset) == len(set(subset.texts)) == count
    assert [labels[int(text[1:])] for text in subset.texts] == subset.labels
    if count >= len(sizes):
        assert set(drawn) == set(sizes)
    for name, size in sizes.items():
        # A row that another class needs to be there at all may be missing, beside rounding.
        assert -len(sizes) < drawn[name] - size * count / len(labels) <= 1


def test_subset_sizes(tmp_path):
    source = save(tmp_path, text=["a", "b", "c"], label=["x", "y", "x"])
    assert load_texts(source, max_samples=3).texts == ["a", "b", "c"]
    assert load_texts(source, max_samples=9).texts == ["a", "b", "c"]
    assert len(load_texts(save(tmp_path, text=["a", "b", "c"]), labelled=False, max_samples=2)) == 2
    refuses(lambda: load_texts(source, max_samples=0), "max_samples is 0; it must be at least 1")


# label_names


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["b", "a", "b"], ["a", "b"]),
        (["10", "9", "-1", "9"], ["-1", "9", "10"]),
        (["1", "01", "0"], ["0", "01", "1"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["1" * 5000, "2"], ["1" * 5000, "2"]),  # too long for Python to convert
    ],
)
def test_label_names_are_sorted(labels, expected):
    assert label_names(made(["t"] * len(labels), labels)) == expected


def test_label_names_needs_two_classes():
    refuses(lambda: label_names(made(["t", "u"], ["a", "a"])), "made: one class only ('a' in all 2 rows)")
    refuses(lambda: label_names(made(["t"])), "made: the rows have no labels", "`label_column`")


# tokenise


def test_tokens_are_the_tokenizers(tokenizer):
    texts = ["A cat sat.", "word " * 30, "naïve 😀"] * 500  # more than a batch
    data = made(texts, ["x", "y", "x"] * 500)
    rows = tokenise(data, tokenizer, max_length=16, label2id={"x": 1, "y": 0})
    assert set(rows.column_names) == {
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "sample_id",
        "length",
        "labels",
    }
    for i in (0, 1, 2, 999, 1000, 1499):
        alone = tokenizer(texts[i], truncation=True, max_length=16)
        assert {name: rows[i][name] for name in alone} == dict(alone)
        assert rows[i]["length"] == len(alone["input_ids"]) == min(16, len(tokenizer(texts[i])["input_ids"]))
    assert rows["sample_id"][:] == list(range(1500))
    assert rows["labels"][:] == [1, 0, 1] * 500
    assert (
        rows.features["sample_id"].dtype == rows.features["length"].dtype == rows.features["labels"].dtype == "int64"
    )
    assert "labels" not in tokenise(data, tokenizer, max_length=16).column_names


def test_the_known_tokens_of_a_sentence(tokenizer):
    row = tokenise(made(["hello world"]), tokenizer, max_length=8)[0]
    # BERT's uncased vocabulary: [CLS] hello world [SEP].
    assert row == {
        "input_ids": [101, 7592, 2088, 102],
        "token_type_ids": [0] * 4,
        "attention_mask": [1] * 4,
        "sample_id": 0,
        "length": 4,
    }


def test_pairs_lose_tokens_from_the_longer_text(tokenizer):
    rows = tokenise(made(["one two " * 20, "one"], pairs=["three", "four " * 50]), tokenizer, max_length=12)
    one, two, three, four = tokenizer.convert_tokens_to_ids(["one", "two", "three", "four"])
    assert rows[0]["input_ids"] == [101, *[one, two] * 4, 102, three, 102]
    assert rows[1]["input_ids"] == [101, one, 102, *[four] * 8, 102]
    assert rows[1]["token_type_ids"] == [0] * 3 + [1] * 9
    assert rows["length"][:] == [12, 12]


def test_length_limits(tokenizer):
    data = made(["word " * 1000])
    assert tokenise(data, tokenizer, max_length=10_000)["length"][:] == [tokenizer.model_max_length]
    assert tokenise(data, tokenizer, max_length=3)["length"][:] == [3]
    refuses(lambda: tokenise(data, tokenizer, max_length=2), "max_length is 2", "give at least 3")
    refuses(lambda: tokenise(made(["a"], pairs=["b"]), tokenizer, max_length=4), "give at least 5")


def test_unknown_labels_name_the_row(tokenizer, tmp_path):
    data = made(["t", "u"], ["a", "z" * 1000])
    known = {name: i for i, name in enumerate("abcdefgh")}
    refuses(
        lambda: tokenise(data, tokenizer, max_length=8, label2id=known),
        "made: row 2: the label 'zzz",
        "which has 'a', 'b', 'c', 'd', 'e', ...",
    )
    refuses(lambda: tokenise(made(["t"]), tokenizer, max_length=8, label2id=known), "made: the rows have no labels")
    source = save(tmp_path, text=["t"] * 10, label=["a"] * 9 + ["new"])
    for seed in range(40):  # until the subset has the last row
        subset = load_texts(source, max_samples=3, seed=seed)
        if "new" in subset.labels:
            break
    refuses(lambda: tokenise(subset, tokenizer, max_length=8, label2id=known), f"{source}: row 10: the label 'new'")


def test_nothing_is_cached_on_disk(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = tokenise(made(["a", "b"]), tokenizer, max_length=8)
    assert rows.cache_files == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "the cat sat on a mat, " * 450_000,
        "x" * 3_000_000,  # one word: one unknown token
        "中" * 3_000_000,  # no blanks, a token each
    ],
)
def test_very_long_texts_are_quick(tokenizer, text):
    start = time.process_time()
    row = tokenise(made([text]), tokenizer, max_length=128)[0]
    assert time.process_time() - start < 15  # uncut, the first takes 20 s
    ids = tokenizer(text[:2000])["input_ids"][:127]
    assert row["input_ids"] == [*ids, 102] if len(ids) == 127 else row["input_ids"] == ids


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["word ", "中", "unbelievably", " " * 700, "x" * 700, "é! ", "\n"]), st.integers(1, 90)
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(3, 40),
)
def test_cutting_long_texts_changes_no_token(tokenizer, pieces, max_length):
    text = "".join(piece * count for piece, count in pieces)
    row = tokenise(made([text]), tokenizer, max_length=max_length)[0]
    assert row["input_ids"] == tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    pair = tokenise(made(["one two three"], pairs=[text]), tokenizer, max_length=max_length + 4)[0]
    expected = tokenizer("one two three", text, truncation="longest_first", max_length=max_length + 4)
    assert pair["input_ids"] == expected["input_ids"]


def test_a_tokenizer_that_keeps_the_end(tokenizer):
    left = AutoTokenizer.from_pretrained(minilm_path(), truncation_side="left")
    row = tokenise(made(["word " * 20_000 + "end"]), left, max_length=4)[0]
    assert row["input_ids"] == [101, *left.convert_tokens_to_ids(["word", "end"]), 102]


def test_ten_thousand_classes_are_quick(tokenizer):
    labels = [f"class {i % 10_000}" for i in range(20_000)]
    data = made(["a"] * 20_000, labels)
    start = time.process_time()
    names = label_names(data)
    rows = tokenise(data, tokenizer, max_length=8, label2id={name: i for i, name in enumerate(names)})
    assert time.process_time() - start < 10
    assert [names[i] for i in rows["labels"][:]] == labels
