"""Which text runs next, at which rung, and who is refused: a clock is passed in, so nothing waits."""

from types import SimpleNamespace

from sharcs_serve.admission import Queue, Waiting


def waiting(number, deadline=1.0, text="a" * 392, **more):  # 100 tokens
    settings = {"policy": None, "degradable": True, "arrived": 0.0, "answer": SimpleNamespace(done=lambda: False)}
    return Waiting(deadline, number, text, **settings | more)


def filled(count, costs=(1.0, 0.5, 0.25), deadline=1.0, seconds_per_token=1e-4):
    queue = Queue(list(costs), deadline, 1)
    queue.seconds_per_token = seconds_per_token
    for number in range(count):
        queue.add(waiting(number))
    return queue


def test_the_earliest_deadline_runs_first_and_a_batch_is_a_twentieth_of_the_deadline():
    queue = Queue([1.0], 1.0, 1)
    queue.seconds_per_token = 1e-4  # 10 ms a text, 5 texts a batch
    for number, deadline in enumerate([5.0, 3.0, 9.0, 1.0, 7.0, 2.0, 8.0]):
        queue.add(waiting(number, deadline))
    assert [each.deadline for each, _ in queue.take(0.0)] == [1.0, 2.0, 3.0, 5.0, 7.0]
    assert [each.deadline for each, _ in queue.take(0.0)] == [8.0, 9.0]
    assert queue.take(0.0) == []
    queue.seconds_per_token = 1.0
    queue.add(waiting(9))
    assert len(queue.take(0.0)) == 1  # one at least


def test_who_left_is_dropped_and_who_was_beside_a_death_runs_alone():
    queue = filled(0)
    left = waiting(0)
    left.answer = SimpleNamespace(done=lambda: True)
    for each in (left, waiting(1), waiting(2, tries=1), waiting(3)):
        queue.add(each)
    taken = [[each.number for each, _ in queue.take(0.0)] for _ in range(3)]
    assert taken == [[1], [2], [3]]


def test_rungs_go_up_at_once_and_down_slowly():
    queue = filled(3)  # 30 ms of 1 s: 3%
    assert queue.look(0.0) == 0
    for number in range(3):
        queue.add(waiting(number))
    assert queue.look(0.0) == 1  # 6%
    for number in range(20):
        queue.add(waiting(number))
    assert queue.look(0.1) == 2  # 26%
    while len(queue):
        batch = queue.take(0.2)
        queue.done(batch, None, 0.0)
    assert queue.look(0.3) == 2
    assert queue.look(1.1) == 2
    assert queue.look(1.3) == 1
    assert queue.look(2.2) == 1
    assert queue.look(2.4) == 0


def test_a_request_that_forbids_it_or_names_its_policy_is_answered_by_the_first_rung():
    queue = filled(30)
    queue.add(waiting(90, 0.1, degradable=False))
    queue.add(waiting(91, 0.2, policy={"start": "full"}))
    rungs = {each.number: rung for each, rung in queue.take(0.0)}
    assert rungs[90] == rungs[91] == 0
    assert queue.rung == 2


def test_refused_is_only_what_the_narrowest_rung_is_too_slow_for():
    queue = filled(100)  # 1 s at the first rung, 0.25 s at the last
    assert queue.refusal(0.3, 1) is None
    assert queue.refusal(0.2, 1) == 1
    assert queue.refusal(0.3, 1, degradable=False) == 1
    queue.seconds_per_token = 1e-2
    assert queue.refusal(1.0, 1) == 25  # 25 s, less half of the deadline, rounded up


def test_nobody_is_refused_for_ever():
    """An estimate that is far too high is corrected: an idle service takes everything."""
    queue = filled(0, seconds_per_token=1e3)
    assert queue.refusal(0.001, 1) is None
    for number in range(200):
        queue.add(waiting(number))
        batch = queue.take(0.0)
        queue.done(batch, 0.001, 100.0)
    queue.add(waiting(0))
    assert queue.refusal(0.5, 1) is None
