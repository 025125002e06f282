"""Single-width batches, by their definition, for groups of any sizes."""

from collections import Counter
from itertools import pairwise

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers import tiny  # noqa: F401  # one thread
from sharcs.training.batches import PlannedBatches, single_width_batches


@st.composite
def plans(draw):
    """Draw the widths of samples, group by group, in random order, a batch size and lengths or none."""
    sizes = draw(st.lists(st.integers(0, 25), min_size=1, max_size=4).filter(any))
    widths = [width for width, size in enumerate(sizes) for _ in range(size)]
    widths = draw(st.permutations(widths))
    batch_size = draw(st.integers(1, 9))
    lengths = draw(st.none() | st.lists(st.integers(1, 30), min_size=len(widths), max_size=len(widths)))
    return torch.tensor(widths), batch_size, lengths, draw(st.integers(0, 2**31))


def groups_of(widths):
    groups = {}
    for sample, width in enumerate(widths.tolist()):
        groups.setdefault(width, []).append(sample)
    return groups


def plan(widths, batch_size, lengths, seed):
    return single_width_batches(widths, batch_size, torch.Generator().manual_seed(seed), lengths)


def uneven(*sizes):
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


@settings(max_examples=120, deadline=None)
@given(plans())
@example((uneven(0, 5), 2, None, 0))  # an empty group
@example((uneven(3, 12), 4, None, 0))  # a size that divides the largest
@example((uneven(1, 7, 0), 3, None, 0))
@example((uneven(1), 1, None, 0))
@example((uneven(2, 25), 8, list(range(1, 28)), 0))
def test_every_epoch_is_balanced(case):
    widths, batch_size, *_ = case
    groups = groups_of(widths)
    largest = max(map(len, groups.values()))
    batches = plan(*case)

    batch_widths = []
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        (width,) = {int(widths[sample]) for sample in batch}  # every batch has one width
        batch_widths.append(width)
    # Every group has the same number of batches, and an empty one has none.
    assert Counter(batch_widths) == dict.fromkeys(groups, -(-largest // batch_size))
    # The widths take turns.
    for start in range(0, len(batches), len(groups)):
        assert sorted(batch_widths[start : start + len(groups)]) == sorted(groups)
    # Every group is repeated up to the size of the largest, its samples equally often.
    times = Counter(sample for batch in batches for sample in batch)
    for group in groups.values():
        assert sum(times[sample] for sample in group) == largest
        assert {times[sample] for sample in group} <= {largest // len(group), -(-largest // len(group))}


@settings(max_examples=50, deadline=None)
@given(plans())
def test_plan_repeats_with_the_generator(case):
    assert plan(*case) == plan(*case)


def test_plan_changes_with_the_generator_in_batches_and_turns():
    widths = uneven(40, 20)
    first, second = plan(widths, 4, None, 0), plan(widths, 4, None, 1)
    assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in second}
    assert [int(widths[b[0]]) for b in first] != [int(widths[b[0]]) for b in second]


def test_turns_do_not_always_begin_with_the_same_width():
    widths = uneven(64, 64)
    opening = [int(widths[batch[0]]) for batch in plan(widths, 2, None, 0)[::2]]
    assert {0, 1} == set(opening)


def padding(batches, lengths):
    return sum(max(lengths[s] for s in batch) * len(batch) - sum(lengths[s] for s in batch) for batch in batches)


def test_lengths_keep_the_samples_and_save_padding():
    # Sizes that divide the largest, so that how often a sample comes is not left to chance.
    widths = uneven(96, 48, 24)
    lengths = torch.randint(3, 60, (len(widths),), generator=torch.Generator().manual_seed(0)).tolist()
    saved = []
    for seed in range(10):
        at_random, by_length = plan(widths, 8, None, seed), plan(widths, 8, lengths, seed)
        assert Counter(s for batch in by_length for s in batch) == Counter(s for batch in at_random for s in batch)
        saved.append(padding(at_random, lengths) - padding(by_length, lengths))
    assert sum(saved) > 0


def test_batches_of_like_length_do_not_come_in_the_order_of_length():
    lengths = list(range(1, 65))
    descents = []
    for seed in range(20):
        longest = [max(lengths[sample] for sample in batch) for batch in plan(uneven(64), 4, lengths, seed)]
        descents += [before > after for before, after in pairwise(longest)]
    assert 0.4 < sum(descents) / len(descents) < 0.6


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 120), st.integers(1, 9), st.booleans(), st.integers(0, 999))
@example(20, 120, 8, True, 0)
def test_a_batch_does_not_collect_the_copies_of_a_repeated_sample(small, large, batch_size, by_length, seed):
    # A batch spans at most the end of one round over the group, whole rounds, and the start of another.
    large = max(small, large)
    widths = uneven(small, large)
    lengths = [1 + sample % 40 for sample in range(small + large)] if by_length else None
    most = max(max(Counter(batch).values()) for batch in plan(widths, batch_size, lengths, seed))
    assert most <= -(-batch_size // small) + 1


def test_sampler_hands_out_the_plan_of_the_moment():
    sampler = PlannedBatches([[[0, 1], [2]], [[2], [1], [0]]].__getitem__, batch_size=2)
    assert (list(sampler), len(sampler)) == ([[0, 1], [2]], 2)
    sampler.set_epoch(1)
    assert (list(sampler), len(sampler)) == ([[2], [1], [0]], 3)
