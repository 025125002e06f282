"""``sharcs benchmark``: what each way of running a network takes, on this machine and for these texts."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
import timeit
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.benchmark.advice import advise
from sharcs.benchmark.contestants import Engine, contestants, graphs_to_write, prepare
from sharcs.benchmark.memory import peak_megabytes
from sharcs.benchmark.results import BenchmarkReport, BenchmarkRow
from sharcs.evaluation.widths import way_coefficients
from sharcs.inference.engine import tokens_of
from sharcs_runtime.policy import flops
from sharcs_runtime.ways import way_taken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from sharcs.inference.folder import TrainedModel
    from sharcs_runtime.answers import Prediction
    from sharcs_runtime.tokens import Text

    Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

BATCH_SIZES = (1, 8, 32, 128)
BASELINE = "full"
ROUNDS = 3
PILOT = 32  # texts
TURN = 32  # texts, in small batches, that an engine answers before it is another one's turn
MEMORY_TEXTS = 512

# Of the time: a share for many texts at once, and for each batch size. Of the counts: the least and the most.
MANY_SHARE, MANY = 0.4, (64, 2000)
BATCH_SHARE = {1: 0.25, 8: 0.1, 32: 0.1, 128: 0.15}
BATCHES = {1: (16, 200), 8: (3, 25), 32: (2, 12), 128: (1, 6)}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        many: Texts of the throughput and the accuracy.
        batches: Number of batches of each size.
    """

    many: int
    batches: dict[int, int]

    @classmethod
    def within(cls, seconds: float, alone: float, together: float) -> Plan:
        """Plan what fits into a time.

        Args:
            seconds: The time for all measurements together.
            alone: Seconds that all contestants take for one text alone.
            together: For one text of a batch.
        """

        def fit(share: float, each: float, limits: tuple[int, int]) -> int:
            return int(np.clip(share * seconds / ((ROUNDS + 1) * each), *limits))

        batches = {
            size: fit(BATCH_SHARE[size], size * (alone if size == 1 else together), BATCHES[size])
            for size in BATCH_SIZES
        }
        return cls(fit(MANY_SHARE, together, MANY), batches)


def run_benchmark(
    trained: TrainedModel,
    folder: Path,
    texts: Sequence[Text],
    labels: Sequence[int] | None,
    *,
    bar: Bar,
    seconds: float = 120.0,
    seed: int = 0,
) -> BenchmarkReport:
    """Measure every way of running a network.

    All contestants answer the same texts, and take turns, so that whatever else slows the machine down slows all of
    them. What is shown is the median of three rounds after one to warm up; a ratio is of sums over the same batches.

    Args:
        trained: The network.
        folder: The directory that it is from.
        texts: Texts, or pairs of texts; a random part of them is used.
        labels: Their classes' indices, or None.
        bar: Shows progress: from a title and a total to what is called with the steps.
        seconds: About how long to measure; exporting and memory take their own time besides.
        seed: Draws that part.

    Raises:
        InputError: If the network can't be exported, or a contestant fails.
    """
    order = np.random.default_rng(seed).permutation(len(texts))
    shuffled = [texts[index] for index in order]
    with tempfile.TemporaryDirectory(prefix="sharcs-benchmark-") as temporary:
        work = Path(temporary)
        with bar("exporting", graphs_to_write(trained)) as advance:
            prepare(trained, work, advance)
        field = contestants(trained, folder, work)
        engines = {contestant.name: contestant.open() for contestant in field}
        measured = measure(engines, shuffled, bar, seconds)
        del engines
        with bar("memory", len(field)) as advance:
            peaks = {}
            for contestant in field:
                peaks[contestant.name] = peak_megabytes(contestant, shuffled[:MEMORY_TEXTS])
                advance(1)
    many = len(next(iter(measured.answers.values())))
    truth = None if labels is None else np.array([labels[index] for index in order[:many]])
    flops = flops_ratios(trained, shuffled[:many], measured.answers)
    # A few batches are not the whole: their times stand against their own FLOPs.
    of_batches = {
        size: flops_ratios(trained, list(itertools.islice(itertools.cycle(shuffled), len(said[BASELINE]))), said)
        for size, said in measured.batch_answers.items()
    }
    classes = {
        name: np.array([answer.class_index for answer in answers]) for name, answers in measured.answers.items()
    }
    rows = [
        BenchmarkRow(
            name=name,
            accuracy=None if truth is None else float((classes[name] == truth).mean()),
            texts_per_second=many / statistics.median(measured.many[name]),
            p50_ms=float(1000 * np.percentile(measured.batches[1][name], 50)),
            p99_ms=float(1000 * np.percentile(measured.batches[1][name], 99)),
            time_ratio={
                size: _total(times[name]) / _total(times[BASELINE]) for size, times in measured.batches.items()
            },
            flops_ratio=flops[name],
            peak_mb=peaks[name],
            flops_ratio_at={size: of_batches[size][name] for size in measured.batches},
        )
        for name in measured.many
    ]
    agreement = {name: float((found == classes[BASELINE]).mean()) for name, found in classes.items()}
    return BenchmarkReport(rows, advise(rows, agreement))


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured, by the contestants' names.

    Attributes:
        answers: To the first texts.
        many: Seconds for all of these, in each round.
        batches: For each batch size, seconds ``[batches, rounds]``.
        batch_answers: For each batch size, the answers to all its batches.
    """

    answers: dict[str, list[Prediction]]
    many: dict[str, list[float]]
    batches: dict[int, dict[str, np.ndarray[Any, Any]]]
    batch_answers: dict[int, dict[str, list[Prediction]]]


def measure(engines: dict[str, Engine], texts: Sequence[Text], bar: Bar, seconds: float) -> Measured:
    """Let engines take turns on the same texts.

    Args:
        engines: By name.
        texts: In random order; the first are used, and used again where a batch needs more than there are.
        bar: Shows progress.
        seconds: About how long to take.
    """
    first = list(itertools.islice(itertools.cycle(texts), PILOT))
    alone = together = 0.0
    with bar("warming up", len(engines)) as advance:
        for engine in engines.values():
            _seconds(engine, first)
            together += _seconds(engine, first) / PILOT
            alone += sum(_seconds(engine, [text]) for text in first[:4]) / 4
            advance(1)
    plan = Plan.within(seconds, alone, together)
    batches = {}
    for size, count in plan.batches.items():
        cycled = itertools.cycle(texts)
        batches[size] = [list(itertools.islice(cycled, size)) for _ in range(count)]
    used = list(texts[: plan.many])
    # The plan is a guess; if it takes far longer, one round has to do.
    latest = time.monotonic() + 2 * seconds
    steps = len(engines) * (ROUNDS + 1) * (1 + sum(plan.batches.values()))
    with bar("measuring", steps) as advance:
        answers = {}
        for name, engine in engines.items():
            answers[name] = list(engine.predict(used))
            advance(1)
        many = _rounds(engines, [used], latest, advance)
        by_size, said = {}, {}
        for size, some in batches.items():
            said[size] = {name: _answers_of(engine, some, advance) for name, engine in engines.items()}
            by_size[size] = _rounds(engines, some, latest, advance)
    return Measured(answers, {name: times[0].tolist() for name, times in many.items()}, by_size, said)


def _answers_of(engine: Engine, batches: list[list[Text]], advance: Callable[[int], None]) -> list[Prediction]:
    """Run the batches once before they are timed."""
    answers: list[Prediction] = []
    for batch in batches:
        answers += engine.predict(batch)
        advance(1)
    return answers


def _rounds(
    engines: dict[str, Engine], batches: list[list[Text]], latest: float, advance: Callable[[int], None]
) -> dict[str, np.ndarray[Any, Any]]:
    names, at_once = list(engines), max(1, TURN // len(batches[0]))
    rounds: dict[str, list[list[float]]] = {name: [] for name in names}
    for turn in range(ROUNDS):
        if turn and time.monotonic() > latest:
            advance(len(names) * len(batches))
            continue
        for name in names:
            rounds[name].append([])
        # In service an engine runs by itself: weights that the processor's caches hold aren't lost after every text.
        for number, start in enumerate(range(0, len(batches), at_once)):
            # Another one begins each time, so that none is always behind the same one and what it left in the caches.
            shift = (turn + number) % len(names)
            for name in names[shift:] + names[:shift]:
                for batch in batches[start : start + at_once]:
                    rounds[name][-1].append(_seconds(engines[name], batch))
                    advance(1)
    return {name: np.array(times).T for name, times in rounds.items()}


def _seconds(engine: Engine, texts: list[Text]) -> float:
    # An answer is a number in Python, so nothing is still to be waited for on a GPU.
    return timeit.timeit(lambda: list(engine.predict(texts)), number=1)


def _total(times: np.ndarray[Any, Any]) -> float:
    """Sum the medians of the rounds over the batches, which differ in work."""
    return float(np.median(times, axis=1).sum())


def flops_ratios(
    trained: TrainedModel, texts: Sequence[Text], answers: dict[str, list[Prediction]]
) -> dict[str, float]:
    """Mean FLOPs of each contestant over the full network's."""
    config = trained.model.config
    names, policy = tuple(config.names), config.routing_policy
    lengths = tokens_of(list(texts), trained.tokenizer, trained.tokenizer.model_max_length).lengths
    ratios = dict.fromkeys(answers, 1.0)
    for contestant, predictions in answers.items():
        if contestant.startswith(("width-", "routed")):
            taken = [way_taken(policy, names, each.first_width_index, each.width_index) for each in predictions]
            ways = sorted(set(taken))
            costs = flops(way_coefficients(trained.model, ways), lengths)
            spent = costs[np.arange(len(costs)), [ways.index(way) for way in taken]]
            ratios[contestant] = float(spent.mean() / costs[:, -1].mean())
    return ratios
