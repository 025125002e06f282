"""The engine against the model called with one text after the other."""

import copy
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from helpers.encoders import DISTINCT, VOCABULARY, WIDTHS, load_routed, save_plain
from sharcs.inference import engine as engine_module
from sharcs.inference.engine import InferenceEngine
from sharcs.inference.pool import Pool
from sharcs_runtime.background import in_background
from sharcs_runtime.policy import names_of_widths

WORDS = VOCABULARY - 5
LONGEST = 30


def make_tokenizer(padding_id, segments=False):
    """Make a tokenizer of words w0, w1, ... whose ids the tiny encoders know."""
    names = [f"[special-{number}]" for number in range(5)]
    names[padding_id] = "[PAD]"
    vocabulary = {name: number for number, name in enumerate([*names, *(f"w{n}" for n in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=names[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    first, last = ("[special-2]", 2), ("[special-4]", 4)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first[0]} $A {last[0]}",
        pair=f"{first[0]} $A {last[0]} $B:1 {last[0]}:1",
        special_tokens=[first, last],
    )
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * segments
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=LONGEST, model_input_names=inputs
    )


@pytest.fixture(scope="session")
def routed(tmp_path_factory):
    """Load every family once, with a router whose choices differ between texts; tests set the policy alone."""
    folder = tmp_path_factory.mktemp("engine")
    loaded = {}
    for family in DISTINCT:
        model = load_routed(save_plain(family, folder / family))
        tokenizer = make_tokenizer(model.config.encoder.pad_token_id, segments=family in ("bert", "electra"))
        texts = [" ".join(f"w{(7 * n + m) % WORDS}" for m in range(1 + n % 20)) for n in range(40)]
        with torch.no_grad():
            logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).router_logits for text in texts])
            model.tail.router.output.weight.mul_(5)
            model.tail.router.output.bias.copy_(5 * (model.tail.router.output.bias - logits.mean(dim=0)))
        loaded[family] = SimpleNamespace(model=model, tokenizer=tokenizer)
    return loaded


@torch.no_grad()
def one_by_one(model, tokenizer, texts, width=None):
    """Call the model on each text alone, before anything is copied for inference."""
    model.tail.fast = None
    answers = []
    for text in texts:
        given = text if isinstance(text, tuple) else (text,)
        row = tokenizer(*given, truncation="longest_first", max_length=LONGEST, return_tensors="pt")
        output = model(**row, width=width)
        probability = output.logits[0].double().softmax(-1)
        last = int(output.width_index[0])
        first = last if output.first_width_index is None else int(output.first_width_index[0])
        answers.append((int(probability.argmax()), float(probability.max()), last, first))
    return answers


def assert_same(found, expected):
    assert [(a.class_index, a.width_index, a.first_width_index) for a in found] == [
        (index, last, first) for index, _, last, first in expected
    ]
    assert [a.score for a in found] == pytest.approx([score for _, score, _, _ in expected], abs=1e-5)


words = st.integers(0, WORDS - 1).map("w{}".format)
texts_of_words = st.lists(words, min_size=1, max_size=LONGEST + 10).map(" ".join)
several = st.one_of(
    st.lists(texts_of_words, max_size=25), st.lists(st.tuples(texts_of_words, texts_of_words), max_size=12)
)
policies = st.fixed_dictionaries(
    {
        "cost_weight": st.sampled_from([0.0, 0.0, 0.4, -0.5]),
        "escalation_threshold": st.sampled_from([None, 0.0, 0.5, 0.7, 1.0]),
        "blend": st.sampled_from([0.0, 0.3, 1.0]),
    }
)


@pytest.mark.parametrize("family", DISTINCT)
@settings(max_examples=12)
@given(
    texts=several,
    policy=policies,
    width=st.sampled_from([None, None, None, *WIDTHS]),
    batch_tokens=st.integers(1, 200),
    window=st.integers(1, 30),
)
def test_any_texts_are_answered_as_one_by_one(routed, family, texts, policy, width, batch_tokens, window):
    model, tokenizer = routed[family].model, routed[family].tokenizer
    model.config.policy = policy
    expected = one_by_one(model, tokenizer, texts, width)
    engine = InferenceEngine(model, tokenizer, width=width, batch_tokens=batch_tokens, window=window)
    assert_same(list(engine.predict(iter(texts))), expected)


@pytest.fixture
def bert(routed):
    """Return one family with the paper's policy."""
    routed["bert"].model.config.policy = {"cost_weight": 0.0}
    return routed["bert"]


def plain_texts(count):
    return [" ".join(f"w{(3 * n + m * m) % WORDS}" for m in range(1 + n % 25)) for n in range(count)]


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_a_long_stream_at_the_defaults(bert, threshold):
    bert.model.config.policy = {"cost_weight": 0.0, "escalation_threshold": threshold}
    texts = plain_texts(300)
    expected = one_by_one(bert.model, bert.tokenizer, texts)
    assert len({first for _, _, _, first in expected}) == len(WIDTHS)
    assert any(last != first for _, _, last, first in expected) == (threshold is not None)
    assert_same(list(InferenceEngine(bert.model, bert.tokenizer).predict(texts)), expected)
    assert_same(list(InferenceEngine(bert.model, bert.tokenizer, window=300).predict(texts)), expected)


def test_the_same_stream_gives_the_same_bits(bert):
    engine = InferenceEngine(bert.model, bert.tokenizer, batch_tokens=100, window=50)
    texts = plain_texts(120)
    assert list(engine.predict(texts)) == list(engine.predict(texts))


def test_a_network_in_training_mode_answers_without_dropout(bert):
    engine = InferenceEngine(bert.model, bert.tokenizer)
    expected = list(engine.predict(plain_texts(20)))
    bert.model.train()
    assert list(engine.predict(plain_texts(20))) == expected
    assert not bert.model.training


def test_weights_that_change_between_two_streams_are_followed(bert):
    texts = plain_texts(30)
    engine = InferenceEngine(bert.model, bert.tokenizer)
    before = list(engine.predict(texts))
    shared = bert.model.tail.layers[0].output.dense.weight
    kept = shared.detach().clone()
    with torch.no_grad():
        shared.neg_()
    found = list(engine.predict(texts))
    assert_same(found, one_by_one(bert.model, bert.tokenizer, texts))
    assert [a.score for a in found] != pytest.approx([a.score for a in before], abs=1e-3)
    with torch.no_grad():
        shared.copy_(kept)


def test_what_training_in_mixed_precision_leaves_around_a_pass_is_left_out(bert):
    """Accelerate leaves autocast around ``forward``; a text alone runs that, those of a batch trunk and tail."""
    model, texts = copy.deepcopy(bert.model), plain_texts(20)
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    engine = InferenceEngine(model, bert.tokenizer)
    expected = one_by_one(bert.model, bert.tokenizer, texts)
    assert_same(list(engine.predict(texts)), expected)
    assert_same([answer for text in texts for answer in engine.predict([text])], expected)


# Batches, pools and memory


class Watch:
    """Notes the batches that a kind of model runs, and the tokens that wait in pools."""

    def __init__(self, kind, monkeypatch):
        """Watch the models, and every pool that is made."""
        self.trunks, self.tails, self.most, self.pools = [], [], 0, []
        watch, run_trunk, run_tail = self, kind.run_trunk, kind.run_tail

        def watched_trunk(model, start=None, /, **inputs):
            watch.trunks.append(watch.size(inputs["attention_mask"]))
            return run_trunk(model, start, **inputs)

        def watched_tail(model, hidden, attention_mask, width):
            watch.tails.append((names_of_widths(WIDTHS).index(width), *watch.size(attention_mask)))
            return run_tail(model, hidden, attention_mask, width)

        monkeypatch.setattr(kind, "run_trunk", watched_trunk)
        monkeypatch.setattr(kind, "run_tail", watched_tail)

        class Watched(Pool):
            def __init__(self):
                super().__init__()
                watch.pools.append(self)

            def add(self, *args):
                super().add(*args)
                watch.most = max(watch.most, sum(watch.kept(pool) for pool in watch.pools))

        monkeypatch.setattr(engine_module, "Pool", Watched)

    @staticmethod
    def kept(pool):
        """Count the tokens whose hidden states are in memory, by the size of the storage behind them."""
        return sum(block.untyped_storage().nbytes() // (4 * block.shape[1]) for block in pool._hidden)

    @staticmethod
    def size(attention_mask):
        """Tell a batch's shape, and how many of its tokens are real."""
        return tuple(attention_mask.shape), int(attention_mask.sum())


@pytest.fixture
def watched(bert, monkeypatch):
    """Watch the model of ``bert``."""
    return Watch(type(bert.model), monkeypatch)


def test_batches_are_full_and_hardly_padded(bert, watched):
    texts = [f"w{n % WORDS} w{n // WORDS} {text}" for n, text in enumerate(plain_texts(400))]  # no two are equal
    list(InferenceEngine(bert.model, bert.tokenizer, batch_tokens=160, window=400).predict(texts))
    assert all(rows * columns <= 160 for (rows, columns), _ in watched.trunks)
    assert all(rows * columns <= 160 for _, (rows, columns), _ in watched.tails)
    for batches in (watched.trunks, [tail[1:] for tail in watched.tails]):
        assert sum(rows for (rows, _), _ in batches) == 400
        padded = sum(rows * columns for (rows, columns), _ in batches)
        assert padded < 1.1 * sum(real for _, real in batches)
    # One batch that is not full for each width, at the end.
    not_full = [index for index, (rows, columns), _ in watched.tails if (rows + 1) * columns <= 160]
    assert len(not_full) == len(set(not_full))


def test_a_text_longer_than_a_batch_is_a_batch_of_its_own(bert, watched):
    list(InferenceEngine(bert.model, bert.tokenizer, batch_tokens=3, window=8).predict(plain_texts(20)))
    assert all(rows == 1 for (rows, _), _ in watched.trunks)
    assert all(rows == 1 for _, (rows, _), _ in watched.tails)


@pytest.mark.parametrize("threshold", [None, 1.0])
@pytest.mark.parametrize("count", [200, 2000])
def test_few_hidden_states_are_kept_however_many_texts_there_are(bert, watched, count, threshold):
    bert.model.config.policy = {"cost_weight": 0.0, "escalation_threshold": threshold}
    list(InferenceEngine(bert.model, bert.tokenizer, batch_tokens=100, window=3000).predict(plain_texts(count)))
    assert 0 < watched.most <= 100 * (len(WIDTHS) + 1)


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_no_tensor_waits_for_the_garbage_collector(bert, threshold):
    bert.model.config.policy = {"cost_weight": 0.0, "escalation_threshold": threshold}
    engine = InferenceEngine(bert.model, bert.tokenizer, batch_tokens=100)

    def run_and_count():
        list(engine.predict(plain_texts(60)))  # pooled
        list(engine.predict(plain_texts(1)))  # whole
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    run_and_count()  # whatever is made once
    gc.collect()
    gc.disable()
    try:
        before = run_and_count()
        assert run_and_count() == before
    finally:
        gc.enable()


def test_an_escalated_input_runs_the_trunk_once(bert, watched):
    bert.model.config.policy = {"cost_weight": 0.0, "escalation_threshold": 1.0}
    texts = plain_texts(60)
    found = list(InferenceEngine(bert.model, bert.tokenizer).predict(texts))
    assert sum(rows for (rows, _), _ in watched.trunks) == len(texts)
    narrow_first = sum(a.first_width_index < 2 for a in found)
    assert 0 < narrow_first < len(texts)
    assert sum(rows for _, (rows, _), _ in watched.tails) == len(texts) + narrow_first


# Streams


def test_an_endless_stream_is_answered_as_it_comes(bert):
    taken = []

    def endless():
        for number in range(10**9):
            taken.append(number)
            yield f"w{number % WORDS}"

    answers = InferenceEngine(bert.model, bert.tokenizer, window=4).predict(endless())
    for number in range(20):
        assert next(answers).width_index in range(len(WIDTHS))
        assert len(taken) <= number + 4 * 5
    answers.close()
    assert not background_threads()
    seen = len(taken)
    time.sleep(0.1)
    assert len(taken) == seen


def background_threads():
    return [thread for thread in threading.enumerate() if thread.name == "sharcs-background"]


def test_no_texts_give_no_answers(bert):
    assert list(InferenceEngine(bert.model, bert.tokenizer).predict([])) == []
    assert list(InferenceEngine(bert.model, bert.tokenizer).answer_windows([])) == []


@pytest.mark.parametrize("after", [0, 3, 10])
def test_an_error_of_the_texts_comes_out_where_it_happened(bert, after):
    def texts():
        yield from plain_texts(after)
        raise LookupError("no more texts")

    answers = InferenceEngine(bert.model, bert.tokenizer, window=4).predict(texts())
    for _ in range(after // 4 * 4):
        next(answers)
    with pytest.raises(LookupError, match="no more texts"):
        next(answers)
    assert not background_threads()


def test_an_error_of_the_tokenizer_comes_out_and_stops_the_thread(bert, monkeypatch):
    answers = InferenceEngine(bert.model, bert.tokenizer, window=4).predict(plain_texts(40))
    next(answers)

    def broken(*args, **kwargs):
        raise LookupError("no such word")

    monkeypatch.setattr(engine_module, "encode", broken)
    with pytest.raises(LookupError, match="no such word"):
        list(answers)
    assert not background_threads()


def test_an_error_of_the_model_stops_the_thread(bert, monkeypatch):
    answers = InferenceEngine(bert.model, bert.tokenizer, window=4).predict(plain_texts(4000))
    next(answers)

    def broken(*args, **kwargs):
        raise MemoryError("out of memory")

    monkeypatch.setattr(bert.model.tail.router, "forward", broken)
    with pytest.raises(MemoryError):
        list(answers)
    assert not background_threads()


def test_the_background_makes_items_ahead_in_its_own_thread_and_closes_them():
    threads, closed = [], []

    def numbers():
        try:
            for number in range(100):
                threads.append(threading.current_thread())
                yield number
        finally:
            closed.append(threading.current_thread())

    items = in_background(numbers(), depth=2)
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while len(threads) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(threads) == 4  # one taken, two wait, one is held
    items.close()
    assert set(threads) == set(closed) != {threading.current_thread()}
    assert list(in_background(numbers())) == list(range(100))


def test_threads_that_cut_texts_do_not_disturb_one_another(bert, monkeypatch):
    tokenizer = bert.tokenizer
    engine = InferenceEngine(bert.model, tokenizer)
    # Long enough to be measured first, by another truncation than that which cuts.
    texts = [f"w{row} w{row + 1} " * (2000 if row < 4 else 40) for row in range(8)]
    alone = [next(engine.predict([text])) for text in texts]

    def answer(number):
        tokenizer("w1 w2 w3 w4 w5 w6", truncation=True, max_length=4)  # the application's own use
        return next(engine.predict([texts[number % 8]]))

    set_up = PreTrainedTokenizerFast.set_truncation_and_padding
    # Wider, the gap between what a tokenizer is set to and its use.
    monkeypatch.setattr(
        PreTrainedTokenizerFast, "set_truncation_and_padding", lambda *a, **k: (set_up(*a, **k), time.sleep(1e-3))
    )
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, range(120)))
    assert [each.class_index for each in found] == [alone[number % 8].class_index for number in range(120)]
    assert [each.score for each in found] == pytest.approx(
        [alone[number % 8].score for number in range(120)], abs=1e-5
    )


def test_a_model_is_prepared_while_other_threads_use_it(bert, monkeypatch):
    model, before = bert.model, bert.model.config.policy
    model.config.policy = {"cost_weight": 1.0}
    batch = bert.tokenizer(["w1 w2", "w3 w4"], return_tensors="pt")
    count = type(model).cost_coefficients
    monkeypatch.setattr(type(model), "cost_coefficients", lambda self: (time.sleep(0.05), count(self))[1])
    failed = []

    def use():
        try:
            with torch.inference_mode():
                for _ in range(20):
                    model(**batch)
        except Exception as error:
            failed.append(error)

    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    for _ in range(10):
        model.tail.fast = None
        vars(model).pop("_counted", None)
        model.prepare_for_inference()
    for user in users:
        user.join()
    model.config.policy = before
    assert not failed
