"""A set and a seed: every method, one after the other, on one machine; each is written as it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from common import processor_seconds, tokenizer
from judge import answers, exits, front, lexical, narrow, reference, students
from judge.data import Rows
from judge.dynabert import dynabert
from judge.joint_exits import joint_exits
from judge.networks import Network, answers_of, over
from judge.training import Schedule, machine_record
from sharcs.data.made import TextMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from judge.answers import Answers
    from judge.settings import Study

CACHE = Path(__file__).parents[1] / "cache" / "judge"
TWO_LAYERS = "2-layers"
Result = tuple[dict[str, "Answers"], dict[str, Any]]


@dataclass
class Pair:
    """One set with one seed.

    Attributes:
        study: The study, whose settings are frozen.
        name: The set.
        seed: The seed of every training.
        state_name: What the names of states begin with, where several trainings of a method take turns.
    """

    study: Study
    name: str
    seed: int
    state_name: str = ""

    def __post_init__(self) -> None:
        """Read the rows."""
        self.parts = self.study.parts(self.name)
        self.cache = CACHE / self.study.name / self.name / str(self.seed)

    def run(self, method: str) -> bool:
        """Run a method unless its answers are there; returns whether it ran."""
        file = self.file(method)
        if file.exists():
            return False
        started = time.time()
        print(f"{time.strftime('%H:%M:%S')} {self.name} {self.seed} {method}", flush=True)
        before = processor_seconds()
        parts, record = METHODS[method](self)
        record |= {
            "method": method,
            "set": self.name,
            "seed": self.seed,
            "fingerprint": self.study.fingerprint,
            "processor_seconds": processor_seconds() - before,
            "seconds": time.time() - started,
            **machine_record(),
        }
        self._check_machine(record)
        answers.save(file, parts, record)
        return True

    def file(self, method: str) -> Path:
        """Where a method's answers are, or will be."""
        return self.study.answers_of(self.name, self.seed, method)

    def _check_machine(self, record: dict[str, Any]) -> None:
        """See that all of a pair runs on one kind of processor, by one torch."""
        for file in filter(Path.exists, map(self.file, METHODS)):
            other = answers.read(file)[1]
            for key in ("processor", "torch"):
                if other[key] != record[key]:
                    raise SystemExit(
                        f"{file}: is of {key} {other[key]}, and this is {record[key]}; delete the pair's folder, "
                        "or go on where it was begun"
                    )

    def schedule(self, rate: float, epochs: str = "peers") -> Schedule:
        """How long a method may train."""
        settings = self.study.settings
        return Schedule(rate, settings["epochs"][epochs], settings["patience"])

    def state(self, method: str) -> Path:
        """Where a training's state lies meanwhile."""
        return self.cache / f"{self.state_name}{method}.state"

    # What methods start from

    @cached_property
    def fine_tuned_reference(self) -> tuple[Network, dict[str, Any]]:
        """The fine-tuned network, with the read-out and the rate that the trial chose, and its training's record."""
        chosen = self.study.settings["reference"][self.name]
        return self._fine_tuned("reference", chosen["readout"], chosen["rate"])

    @property
    def reference(self) -> Network:
        """The fine-tuned network."""
        return self.fine_tuned_reference[0]

    def _fine_tuned(self, name: str, readout: str, rate: float) -> tuple[Network, dict[str, Any]]:
        """Fine-tune the whole network, or read it where it was done already."""
        network = reference.new_network(self.parts, readout, self.seed)
        file = self.cache / f"{name}.pt"
        if file.exists():
            content = torch.load(file, weights_only=True)
            network.load_state_dict(content["model"])
            return network, content["record"]
        record = reference.fine_tune(
            network, self.parts, seed=self.seed, schedule=self.schedule(rate, "reference"), state=self.state(name)
        )
        record |= {"readout": readout}
        self._check_again(name, network)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": network.state_dict(), "record": record}, file)
        return network, record

    def _check_again(self, name: str, network: Network) -> None:
        """See that a network that is trained again, since the cache is gone, is the one that methods started from."""
        file = self.file(name)
        if not file.exists():
            return
        before = answers.read(file)[0]["held_out"].logits[0]
        after = answers_of(network, self.parts.held_out).logits[0]
        if np.abs(before - (after - after.mean(-1, keepdims=True))).max() > 2 / answers.STEP:
            raise SystemExit(f"{file}: training it again gave another network; delete the pair's folder")

    @cached_property
    def teacher(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The reference's answers to train."""
        self.reference.train(False)
        return over(self.parts.train, self.reference)

    @cached_property
    def with_made_texts(self) -> tuple[Rows, np.ndarray[Any, np.dtype[np.float32]]]:
        """Train and texts made from it, the same ones as ours has, with the reference's answers."""
        count = self.study.settings["made_texts"] * len(self.parts.train)
        maker = TextMaker(narrow.as_dataset(self.parts.train), tokenizer())
        made = Rows.of_tokens(maker.rows_made(count, self.seed))
        self.reference.train(False)
        return self.parts.train.joined(made), np.concatenate([self.teacher, over(made, self.reference)])

    @cached_property
    def vectors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Vectors of all tokens, from the reference."""
        return students.token_vectors(self.reference, students.STATIC_SIZE, self.seed)

    def distilled(
        self, make: Callable[[], Any], rate: float, method: str, ways: Sequence[str] = ("train", "made")
    ) -> Result:
        """Train a small network on train and on made texts too; held-out rows say which one stays."""
        tried = []
        for name in ways:
            rows, teacher = (self.parts.train, self.teacher) if name == "train" else self.with_made_texts
            torch.manual_seed(self.seed)
            model = make()
            record = students.distilled(
                model,
                rows,
                teacher,
                self.parts.held_out,
                seed=self.seed,
                schedule=self.schedule(rate),
                state=self.state(f"{method}-{name}"),
            )
            tried.append((max(record["scores"]), name, model, record))
        best = max(tried, key=lambda each: each[0])
        record = {"chosen": best[1], **{name: record for _, name, _, record in tried}}
        record["train_seconds"] = sum(of["train_seconds"] for _, _, _, of in tried)
        return self.parts.measured(lambda rows: answers_of(best[2], rows)), record


def _reference(pair: Pair) -> Result:
    network, record = pair.fine_tuned_reference
    return pair.parts.measured(lambda rows: answers_of(network, rows)), record


def _ours(pair: Pair) -> Result:
    settings = pair.study.settings["front"]
    model, record = front.train(
        pair.reference,
        pair.parts,
        settings,
        made_texts=pair.study.settings["made_texts"] * len(pair.parts.train),
        seed=pair.seed,
        state=pair.cache / f"{pair.state_name}ours",
    )
    return pair.parts.measured(lambda rows: front.answers_of(model, rows)), record


def _narrow(pair: Pair) -> Result:
    settings = pair.study.settings["narrow"]
    model, record = narrow.train(
        pair.reference, pair.parts, settings, seed=pair.seed, state=pair.cache / f"{pair.state_name}narrow"
    )
    return pair.parts.measured(lambda rows: narrow.answers_of(model, pair.reference, rows)), record


def _exits(kind: str) -> Callable[[Pair], Result]:
    def run(pair: Pair) -> Result:
        settings = pair.study.settings[kind]
        common: dict[str, Any] = {
            "readout": settings["readout"],
            "seed": pair.seed,
            "schedule": pair.schedule(settings["rate"]),
        }
        if kind == "exits":
            return exits.deebert(pair.reference, pair.parts, **common)
        method = exits.fastbert if kind == "branches" else joint_exits
        return method(pair.reference, pair.parts, **common, state=pair.state(kind))

    return run


def _dynabert(pair: Pair) -> Result:
    first, second = (pair.schedule(rate) for rate in pair.study.settings["dynabert"]["rates"])
    return dynabert(
        pair.reference, pair.parts, seed=pair.seed, schedules=(first, second), state=pair.state("dynabert")
    )


def _first_layers(layers: int) -> Callable[[Pair], Result]:
    """Distil the first layers; whether made texts help them is found out with two of them, which take most hours."""

    def run(pair: Pair) -> Result:
        settings = pair.study.settings["students"]
        two = pair.file(TWO_LAYERS)
        ways = [answers.read(two)[1]["chosen"]] if two.exists() and layers != 2 else ["train", "made"]
        return pair.distilled(
            lambda: students.first_layers(pair.reference, layers, settings["readout"], pair.seed),
            settings["rate"],
            f"{layers}-layers",
            ways,
        )

    return run


def _tokens(units: int, size: int) -> Callable[[Pair], Result]:
    def run(pair: Pair) -> Result:
        vectors = pair.vectors[:, :size]
        if not units:
            vectors = vectors * students.zipf_weights(pair.parts.train, len(vectors))[:, None]
        pairs = pair.parts.train.pairs is not None
        trained = np.unique(np.concatenate([np.array(ids) for ids in pair.parts.train.ids]))
        return pair.distilled(
            lambda: students.TokenModel(vectors, trained, len(pair.parts.classes), pairs=pairs, units=units),
            pair.study.settings["tokens"]["rate"],
            "gru" if units else "static",
        )

    return run


# In the order in which a pair runs them: the reference first, then what is cheap.
METHODS: dict[str, Callable[[Pair], Result]] = {
    "reference": _reference,
    "ours": _ours,
    "narrow": _narrow,
    "tfidf": lambda pair: lexical.lexical(pair.parts, seed=pair.seed),
    "tfidf-whole": lambda pair: lexical.lexical(pair.parts, seed=pair.seed, whole=True),
    "static": _tokens(0, students.STATIC_SIZE),
    "gru": _tokens(students.GRU_UNITS, students.GRU_INPUTS),
    "heads": lambda pair: exits.linear_heads(pair.reference, pair.parts),
    "exits": _exits("exits"),
    "branches": _exits("branches"),
    TWO_LAYERS: _first_layers(2),
    "1-layer": _first_layers(1),
    "3-layers": _first_layers(3),
    "joint-exits": _exits("joint_exits"),
    "dynabert": _dynabert,
}
