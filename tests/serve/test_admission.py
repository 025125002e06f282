"""Which text runs next, at which rung, and who is refused: a clock is passed in, so nothing waits."""

import random
from itertools import pairwise

import pytest

from sharcs_serve.admission import LateError, Queue, Waiting


class Answer:
    """Stands for a future."""

    def __init__(self):
        self.error = None

    def done(self):
        """Tell whether it has come."""
        return self.error is not None

    def set_exception(self, error):
        """Let it be an error."""
        self.error = error


def waiting(number, deadline=1.0, text="a" * 328, **more):  # takes the time of 100 tokens
    settings = {"policy": None, "degradable": True, "arrived": 0.0, "answer": Answer()}
    return Waiting(deadline, number, text, **settings | more)


def filled(count, costs=(1.0, 0.5, 0.25), deadline=1.0, seconds_per_token=1e-4, **more):
    queue = Queue(list(costs), deadline, 1)
    queue.seconds_per_token = seconds_per_token
    for number in range(count):
        queue.add(waiting(number, **more))
    return queue


def through(queue, batch, seconds):
    queue.done(batch, queue.expected(batch), seconds)


def numbers(batch):
    return [each.number for each, _ in batch]


def test_a_short_text_takes_more_than_its_tokens():
    queue, short, long = filled(0), waiting(0, text="a" * 24), waiting(0)  # of 8 and of 84 tokens
    assert queue.expected([(short, 0)]) == pytest.approx(0.24 * queue.expected([(long, 0)]))


def test_the_earliest_deadline_runs_first_and_a_batch_is_an_eighth_of_the_deadline():
    queue = Queue([1.0], 0.4, 1)
    queue.seconds_per_token = 1e-4  # 10 ms a text, 5 texts a batch
    for number, deadline in enumerate([5.0, 3.0, 9.0, 1.0, 7.0, 2.0, 8.0]):
        queue.add(waiting(number, deadline))
    assert [each.deadline for each, _ in queue.take(0.0)] == [1.0, 2.0, 3.0, 5.0, 7.0]
    assert [each.deadline for each, _ in queue.take(0.0)] == [8.0, 9.0]
    assert queue.take(0.0) == []
    queue.seconds_per_token = 1e-2
    queue.add(waiting(9))
    assert len(queue.take(0.0)) == 1  # one at least


def test_who_left_is_dropped_and_who_was_beside_a_death_runs_alone():
    queue = filled(0)
    left = waiting(0)
    left.answer.set_exception(ValueError())
    for each in (left, waiting(1), waiting(2, tries=1), waiting(3)):
        queue.add(each)
    assert [numbers(queue.take(0.0)) for _ in range(3)] == [[1], [2], [3]]


def test_rungs_go_up_at_once_and_down_slowly():
    queue = filled(36)  # 350 ms of 1 s behind the first
    assert queue.look(0.0) == 0
    for number in range(10):
        queue.add(waiting(number))
    assert queue.look(0.0) == 1  # 45%
    for number in range(30):
        queue.add(waiting(number))
    assert queue.look(0.1) == 2  # 75%
    while len(queue):
        through(queue, queue.take(0.2), None)
    assert queue.look(0.3) == 2
    assert queue.look(1.1) == 2
    assert queue.look(1.3) == 1
    assert queue.look(2.2) == 1
    assert queue.look(2.4) == 0


def test_a_text_that_can_run_at_once_is_no_load():
    queue = filled(1, seconds_per_token=5e-3)  # half of the deadline by itself
    assert queue.look(0.0) == 0
    assert queue.take(0.0)[0][1] == 0


def test_a_request_that_forbids_it_or_names_its_policy_is_answered_by_the_first_rung():
    queue = filled(70)
    queue.add(waiting(90, 0.1, degradable=False))
    queue.add(waiting(91, 0.2, policy={"start": "full"}))
    rungs = {each.number: rung for each, rung in queue.take(0.0)}
    assert rungs[90] == rungs[91] == 0
    assert queue.rung == 2


def test_refused_is_only_what_the_narrowest_rung_is_too_slow_for():
    queue = filled(100)  # 1 s at the first rung, 0.25 s at the last; three quarters of a deadline may be filled
    assert queue.refusal(0.0, [waiting(100, 0.5)]) is None
    queue = filled(100, deadline=0.3)
    assert queue.refusal(0.0, [waiting(100, 1.0)]) is None
    assert queue.refusal(0.0, [waiting(100, 1.0)] * 300) == 1  # 0.25 + 0.75 s
    queue = filled(100, seconds_per_token=1e-2)
    assert 25 - 0.75 < queue.refusal(0.0, [waiting(100)]) <= 26  # 25 s and its own 0.25, less 0.75


def test_who_forbids_brown_out_or_names_a_policy_needs_more_time():
    queue = filled(100)
    assert queue.refusal(0.0, [waiting(100, 1.0)] * 10) is None
    assert queue.refusal(0.0, [waiting(100, 1.0, degradable=False)] * 60) == 1
    queue = filled(100)
    assert queue.refusal(0.0, [waiting(100, 1.0, policy={"start": "full"})] * 60) == 1


def test_a_short_deadline_is_no_matter_of_what_is_due_later_unless_that_would_be_late():
    queue = filled(0, deadline=10.0)
    for each in range(1000):  # 2.5 s
        queue.add(waiting(each, 10.0))
    assert queue.refusal(0.0, [waiting(0, 0.1)]) is None  # it runs before them
    assert queue.refusal(6.0, [waiting(0, 9.0)] * 100) is None
    assert queue.refusal(6.0, [waiting(0, 9.0)] * 300) == 1  # 0.75 s before 2.5, and 3 may be filled


def test_the_lag_of_the_event_loop_is_part_of_the_wait():
    queue = filled(1, seconds_per_token=1e-6)
    assert queue.refusal(0.0, [waiting(1, 0.2)]) is None
    queue.lag = 0.05
    assert queue.refusal(0.0, [waiting(1, 0.2)]) == 1


def test_the_start_of_a_process_is_part_of_the_wait_where_there_is_none():
    queue = filled(1, seconds_per_token=1e-6)
    queue.ready_at = 10.5
    assert queue.refusal(10.0, [waiting(1, 10.6)]) == 1
    assert queue.refusal(10.0, [waiting(1, 11.0)]) is None
    assert queue.refusal(11.0, [waiting(1, 11.1)]) is None


def test_what_would_be_late_does_not_run_and_is_told_so():
    queue = filled(2, deadline=1.0)  # 10 ms each
    passed, close, fine = waiting(5, 0.5), waiting(6, 0.705), waiting(7, 2.0)
    queue = filled(0)
    for each in (passed, close, fine):
        queue.add(each)
    assert numbers(queue.take(0.7)) == [7]
    assert isinstance(passed.answer.error, LateError)
    assert isinstance(close.answer.error, LateError)
    assert fine.answer.error is None
    queue.add(close := waiting(8, 0.705))
    through(queue, queue.take(0.0), 0.01)
    died = waiting(9, 0.5, tries=1)
    queue.add(died)
    assert numbers(queue.take(0.7)) == [9]  # a process died beside it; it is late, but not lost


def test_the_last_one_runs_so_that_an_estimate_that_is_too_high_is_corrected():
    queue = filled(1, seconds_per_token=1e3)
    assert numbers(queue.take(0.0)) == [0]
    queue.add(late := waiting(1))
    assert queue.take(1.5) == []
    assert isinstance(late.answer.error, LateError)


def test_nobody_is_refused_for_ever():
    """An estimate that is far too high is corrected: an idle service takes everything."""
    queue = filled(0, seconds_per_token=1e3)
    assert queue.refusal(0.0, [waiting(0, 0.001)]) is None
    for number in range(200):
        queue.add(waiting(number))
        through(queue, queue.take(0.0), 60.0 if number < 20 else 0.001)
    queue.add(waiting(0))
    assert queue.refusal(0.0, [waiting(1, 0.5)]) is None


def test_the_pace_of_each_rung_is_measured():
    queue = filled(0, costs=(1.0, 0.5))
    truth = {0: 3e-4, 1: 2.4e-4}  # the narrow rung is dearer than its FLOPs
    for number in range(600):
        queue.rung, queue._calm_since = number % 2, None
        queue.add(waiting(number))
        batch = queue.take(0.0)
        through(queue, batch, 100 * truth[batch[0][1]])
    assert [queue.pace(rung) for rung in (0, 1)] == pytest.approx(list(truth.values()), rel=0.01)
    before = queue.pace(0)
    queue.rung = 0
    queue.add(waiting(0))
    through(queue, queue.take(0.0), 3600.0)  # a process that stood still
    assert queue.pace(0) < 1.5 * before


def test_who_is_told_to_come_again_is_not_told_the_same_second_as_all():
    queue = filled(100, costs=(1.0,), seconds_per_token=1e-3)  # 10 s; a text is 0.1 s
    told = [queue.refusal(0.0, [waiting(100)]) for _ in range(60)]
    assert told == sorted(told)
    assert [told.count(second) for second in range(min(told), max(told))] == [5] * (max(told) - min(told))
    told = [queue.refusal(0.0, [waiting(100)]) for _ in range(500)]
    assert told[-1] == 30
    assert queue.refusal(100.0, [waiting(100, 101.0)]) < 12  # what was told has passed


@pytest.mark.parametrize("offered", [1.5, 3.0])
def test_overload_is_answered_in_time_at_full_capacity(offered):
    """One process takes 0.5 to 1.5 times what is expected; requests arrive as of a Poisson process."""
    draw = random.Random(1)
    queue, now, free, good, late, given = filled(0, costs=(1.0,), seconds_per_token=1e-4), 0.0, 0.0, 0, 0, 0
    while now < 15.0:
        now += draw.expovariate(100 * offered)
        while free <= now and len(queue):
            batch = queue.take(free)
            seconds = sum(0.01 * draw.uniform(0.5, 1.5) for _ in batch)
            free += seconds
            through(queue, batch, seconds)
            good += sum(free <= each.deadline for each, _ in batch)
            late += sum(free > each.deadline for each, _ in batch)
        free = max(free, now) if not len(queue) else free
        asked = waiting(given, now + 1.0)
        given += 1
        if queue.refusal(now, [asked]) is None:
            queue.add(asked)
    assert late == 0
    assert good > 0.95 * 15 * 100


def test_an_old_measurement_of_a_rung_that_does_not_run_any_more_refuses_nobody():
    queue = filled(0, costs=(1.0, 0.5))
    for rung, seconds in ((1, 60.0), *[(0, 0.01)] * 150):
        queue.rung, queue._calm_since = rung, None
        queue.add(waiting(0))
        through(queue, queue.take(0.0), seconds)
    queue.add(waiting(0))
    assert queue.refusal(0.0, [waiting(1, 0.5)]) is None


@pytest.mark.parametrize(("expected", "truth", "rung"), [(0.1, 0.001, 0), (0.01, 0.01, 2)], ids=["wrong", "overload"])
def test_a_rung_that_does_not_run_any_more_is_measured_by_single_texts(expected, truth, rung):
    """Every 20 ms come 16 texts, which the last rung answers in 0.1 ms each, and the first one as it really does."""
    queue, now, shown, trials = filled(0, costs=(1.0, 0.1, 0.01), deadline=0.2), 0.0, [], []
    queue.done([(waiting(0), 0)], 0.0, expected)
    for tick in range(400):
        free = now = 0.02 * tick
        for number in range(16):
            queue.add(waiting(number, now + 0.2))
        while free < now + 0.02 and (batch := queue.take(free)):
            if batch[0][0].is_trial:
                assert [at for _, at in batch] == [0]
                assert queue.running == pytest.approx(100 * queue.pace(queue.rung))
                trials.append(free)
            seconds = sum(truth if at == 0 else 1e-4 for _, at in batch)
            through(queue, batch, seconds)
            free += seconds
            shown.append(queue.rung)
    assert max(shown) == 2
    assert shown[-1] == rung
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(trials))
    assert len(trials) == 16 if rung else 3 < len(trials) < 12


def test_who_has_little_time_or_chose_is_no_trial():
    for more in ({"deadline": 0.4}, {"degradable": False}, {"policy": {"start": "full"}}, {"tries": 1}):
        queue = filled(70)
        queue.look(0.0)
        queue.add(waiting(99, **{"deadline": 0.6} | more))
        assert queue.rung == 2
        batch = queue.take(0.0)
        assert batch[0][0].number == 99
        assert not batch[0][0].is_trial
    queue = filled(70)
    ((trial, _),) = queue.take(0.0)
    assert trial.is_trial
    queue.add(trial)  # its engine process has died before it began
    assert not trial.is_trial
