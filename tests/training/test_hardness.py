"""Confidence history and hardness labels against a slow literal re-implementation."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers import tiny  # noqa: F401  # one thread
from sharcs.errors import InputError
from sharcs.training.hardness import ConfidenceHistory, assign_widths, confidence_bands, hardness_labels

EDGES = [0.0, 0.1, 0.25, 0.5, 0.65, 0.7, 0.8, 0.95, 1.0]
probabilities = st.one_of(st.sampled_from(EDGES), st.floats(0, 1, width=32))
confidences = st.one_of(probabilities, st.just(math.nan))


@st.composite
def bands_of(draw, widths):
    """Draw a band for every width; they may overlap, nest or leave gaps."""
    band = st.tuples(probabilities, probabilities).map(sorted).filter(lambda b: np.float32(b[0]) < np.float32(b[1]))
    return [tuple(draw(band)) for _ in range(widths)]


@st.composite
def labelling_cases(draw):
    """Draw confidences and bands."""
    bands = draw(st.integers(2, 4).flatmap(bands_of))
    window = draw(st.integers(1, 4))
    row = st.lists(confidences, min_size=window, max_size=window)
    return draw(st.lists(row, min_size=1, max_size=8)), bands


def slow_labels(rows, bands):
    """Follow the definition word for word, one number at a time, in the tensors' single precision."""
    labels = []
    for row in rows:
        label = []
        for low, high in bands:
            low, high = np.float32(low), np.float32(high)
            fits = True
            for confidence in row:
                confidence = np.float32(confidence)
                if math.isnan(confidence) or confidence < low or confidence > high:
                    fits = False
                if confidence == high and high != 1.0:
                    fits = False
            label.append(1.0 if fits else 0.0)
        labels.append(label if 1.0 in label else [0.0] * (len(bands) - 1) + [1.0])
    return labels


@settings(max_examples=150, deadline=None)
@given(labelling_cases())
@example(([[1.0]], [(0.8, 1.0), (0.0, 0.8)]))  # exactly 1 belongs to the easiest
@example(([[0.8, 0.8]], [(0.8, 1.0), (0.0, 0.8)]))  # an edge belongs to the band above it
@example(([[0.9, 0.7]], [(0.8, 1.0), (0.0, 0.8)]))  # fits no band
@example(([[0.9, math.nan]], [(0.8, 1.0), (0.5, 1.0), (0.0, 0.5)]))  # not known for long enough
@example(([[0.9, 1.0]], [(0.8, 1.0), (0.5, 1.0), (0.0, 0.5)]))  # fits two bands
def test_labels_equal_a_literal_reimplementation(case):
    rows, bands = case
    labels = hardness_labels(torch.tensor(rows), bands)
    assert labels.dtype == torch.float32
    assert labels.tolist() == slow_labels(rows, bands)


def test_a_sample_that_fits_no_band_is_labelled_full_width_only():
    bands = [(0.8, 1.0), (0.5, 0.7), (0.0, 0.4)]
    rows = [[0.9, 0.6], [0.75, 0.75], [0.45, 0.45], [math.nan, math.nan]]
    assert hardness_labels(torch.tensor(rows), bands).tolist() == [[0.0, 0.0, 1.0]] * 4


def test_bands_are_half_open_and_the_top_band_holds_exactly_one():
    bands = confidence_bands([0.25, 0.5, 1.0])
    labels = hardness_labels(torch.tensor([[1.0], [0.8], [0.79999], [0.5], [0.49999], [0.0]]), bands)
    assert labels.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    assert labels.sum(1).tolist() == [1.0] * 6


@pytest.mark.parametrize(
    ("widths", "bands"),
    [
        ([0.25, 1.0], [(0.8, 1.0), (0.0, 0.8)]),
        ([0.25, 0.5, 1.0], [(0.8, 1.0), (0.5, 0.8), (0.0, 0.5)]),
        ([0.25, 0.5, 0.75, 1.0], [(0.8, 1.0), (0.65, 0.8), (0.5, 0.65), (0.0, 0.5)]),
        ([1.0], [(0.0, 1.0)]),
    ],
)
def test_default_bands_are_the_papers(widths, bands):
    found = confidence_bands(widths)
    assert [low for low, _ in found] == pytest.approx([low for low, _ in bands])
    assert [high for _, high in found] == pytest.approx([high for _, high in bands])


@given(st.integers(1, 8))
def test_default_bands_tile_zero_to_one(narrow):
    bands = confidence_bands([*np.linspace(0.1, 0.9, narrow).tolist(), 1.0])
    assert bands[0][1] == 1.0
    assert bands[-1][0] == 0.0
    assert all(above[0] == below[1] for above, below in pairwise(bands))
    assert all(low < high for low, high in bands)


def test_given_bands_replace_the_defaults_of_their_widths_only():
    assert confidence_bands([0.25, 0.5, 1.0], {0.5: (0.3, 0.9)}) == [(0.8, 1.0), (0.3, 0.9), (0.0, 0.5)]
    assert confidence_bands([0.25, 1.0], {1.0: (0, 1), 0.25: (0.95, 1)}) == [(0.95, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        ({0.25: (-0.1, 0.5)}, ["0.25", "-0.1"]),
        ({0.25: (0.5, 1.1)}, ["0.25", "1.1"]),
        ({1.0: (0.5, 0.5)}, ["1", "0.5"]),
        ({1.0: (0.6, 0.5)}, ["1", "0.6"]),
        ({0.3: (0.0, 0.5)}, ["0.3", "0.25, 1"]),
        ({0.25: (math.nan, 0.5)}, ["0.25", "nan"]),
        ({0.25: (0.5, math.nan)}, ["0.25", "nan"]),
    ],
)
def test_wrong_bands_are_refused_with_the_wrong_value_named(bands, words):
    with pytest.raises(InputError) as error:
        confidence_bands([0.25, 1.0], bands)
    assert all(word in str(error.value) for word in words)


def test_widths_are_drawn_uniformly_from_the_labelled_ones():
    patterns = torch.tensor([[1.0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1]])
    draws = 6000
    drawn = assign_widths(patterns.repeat_interleave(draws, 0), torch.Generator().manual_seed(0)).view(-1, draws)
    assert drawn.dtype == torch.int64
    for pattern, row in zip(patterns, drawn, strict=True):
        counts = torch.bincount(row, minlength=3)
        choices = int(pattern.sum())
        assert counts[pattern == 0].sum() == 0
        deviation = 5 * math.sqrt(draws / choices * (1 - 1 / choices))
        assert (counts[pattern == 1] - draws / choices).abs().max() <= deviation


def test_drawn_widths_repeat_with_the_generator_and_change_without():
    labels = torch.ones(200, 3)
    first = assign_widths(labels, torch.Generator().manual_seed(1))
    assert torch.equal(first, assign_widths(labels, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, assign_widths(labels, torch.Generator().manual_seed(2)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.data())
def test_history_holds_the_last_confidence_of_each_of_the_last_epochs(window, data):
    samples, epochs = 5, data.draw(st.integers(1, 7))
    history = ConfidenceHistory(samples, window)
    seen = {}  # by sample and epoch
    for epoch in range(epochs):
        # Every sample is trained at least once an epoch; some are repeated, in the same batch or a later one.
        order = data.draw(st.permutations(list(range(samples))))
        order = list(order) + data.draw(st.lists(st.integers(0, samples - 1), max_size=4))
        values = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(order), max_size=len(order)))
        cut = data.draw(st.integers(0, len(order)))
        for part in (slice(0, cut), slice(cut, None)):
            history.record(epoch, torch.tensor(order[part], dtype=torch.long), torch.tensor(values[part]))
        for sample, value in zip(order, values, strict=True):
            seen[sample, epoch] = value
    for sample in range(samples):
        last = [seen[sample, epoch] for epoch in range(max(0, epochs - window), epochs)]
        row = history.values[sample].tolist()
        assert sorted(value for value in row if not math.isnan(value)) == sorted(last)
        assert sum(math.isnan(value) for value in row) == window - len(last)


def test_history_of_a_sample_that_was_never_trained_stays_missing():
    history = ConfidenceHistory(3, 2)
    history.record(0, torch.tensor([0, 1]), torch.tensor([0.5, 0.25]))
    history.record(1, torch.tensor([0]), torch.tensor([0.75]))
    assert torch.equal(history.values.isnan(), torch.tensor([[False, False], [False, True], [True, True]]))
    assert hardness_labels(history.values, [(0.0, 0.9), (0.0, 0.1)]).tolist() == [[1, 0], [0, 1], [0, 1]]


def test_history_keeps_plain_single_precision_numbers():
    history = ConfidenceHistory(2, 1)
    history.record(0, torch.tensor([1]), torch.tensor([0.5], dtype=torch.float64, requires_grad=True))
    assert history.values.dtype == torch.float32
    assert not history.values.requires_grad
    assert history.values.grad_fn is None
