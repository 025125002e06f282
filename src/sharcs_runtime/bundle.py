"""The directory that ``sharcs export`` writes: its description, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharcs_runtime.errors import InputError, first_line
from sharcs_runtime.policy import RoutingPolicy, names_of_widths, record_of
from sharcs_runtime.sessions import ONNX_RUNTIME, OPENVINO, RUNTIMES
from sharcs_runtime.ways import Costs, Doubles

DESCRIPTION_FILE = "sharcs.json"
TOKENIZER_FILE = "tokenizer.json"
FORMAT, FORMAT_OPENVINO = 2, 3  # an earlier version would run the latter's graphs on ONNX Runtime


def numbers_of(int8: bool, int8_embeddings: bool) -> str:
    """Name what graphs compute in."""
    if int8_embeddings:
        return "int8 with embeddings"
    return "int8" if int8 else "float32"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What an exported network consists of.

    Attributes:
        folder: Where it lies.
        names: Of the sub-networks, the full one last.
        widths: Ascending; of a dense model the one that it was cut to.
        labels: Class names by index.
        problem_type: As in Hugging Face configurations.
        policy: How inputs are routed.
        costs: What each sub-network costs. An export of the first format doesn't say what escalation saves: there it
            costs what starting anew does.
        max_length: Tokens kept of a text.
        padding: What each of the network's inputs but the attention mask is padded with.
        trunk: File of embeddings, layers 1..k and router; None in a dense model.
        tails: File of the rest at each width, and of those in front, from tokens to logits; of a dense model the one
            file, from tokens to logits.
        front: How many sub-networks answer before the encoder runs; they come first.
        continuation: What the full network costs after another one inside the encoder, as c₀, c₁ and c₂; None where
            an earlier version has not written it.
        int8: Whether the graphs are quantised.
        int8_embeddings: Whether their tables of embeddings are, too.
        openvino: Files of the graphs that OpenVINO runs; ONNX Runtime runs the others.
        columns: Names of the columns of the training data, by what they hold; None where they are not known.
        promise: What held-out rows of the training say of its policy, or None.
        calibration: What a calibration found, or None.
        label_type: What the labels of the training were: ``integer`` or ``boolean``; None for text.
    """

    folder: Path
    names: list[str]
    widths: list[float]
    labels: list[str]
    problem_type: str | None
    policy: RoutingPolicy
    costs: Costs
    max_length: int
    padding: dict[str, int]
    trunk: Path | None
    tails: list[Path]
    front: int = 0
    continuation: Doubles | None = None
    int8: bool = False
    int8_embeddings: bool = False
    openvino: frozenset[Path] = frozenset()
    columns: dict[str, str | None] | None = None
    promise: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    label_type: str | None = None

    @property
    def routing_policy(self) -> RoutingPolicy:
        """The policy, as a trained model's configuration calls it; like what follows."""
        return self.policy

    @property
    def front_count(self) -> int:
        """How many sub-networks answer before the encoder runs."""
        return self.front

    @property
    def keys(self) -> list[float | str]:
        """What each sub-network is asked for by: its width, or the name of one in front of the encoder."""
        return [*self.names[: self.front], *self.widths[self.front :]]

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by index."""
        return dict(enumerate(self.labels))

    @property
    def class_indices(self) -> dict[str, int]:
        """The classes' indices by their names."""
        return {name: index for index, name in enumerate(self.labels)}

    def index_of(self, width: float | str) -> int:
        """Find the index of a sub-network, by its width or by its name.

        Raises:
            InputError: If the network has no such one.
        """
        for known in (self.keys, self.names):
            if width in known:
                return known.index(width)  # type: ignore[arg-type]
        choices = ", ".join(map(str, self.keys))
        raise InputError(f"width {width}: the exported network has {choices}; name one of them")

    @property
    def numbers(self) -> str:
        """What the graphs compute in."""
        return numbers_of(self.int8, self.int8_embeddings)

    @property
    def runtime(self) -> str:
        """What runs the graphs, or the larger ones of them: ``onnxruntime`` or ``openvino``."""
        return OPENVINO if self.openvino else ONNX_RUNTIME

    def runtime_of(self, file: Path) -> str:
        """Name what runs one of the graphs."""
        return OPENVINO if file in self.openvino else ONNX_RUNTIME

    @property
    def untested(self) -> str | None:
        """What to know where the policy's promise was tested with other numbers than the graphs', in one line."""
        record = record_of(self.policy, self.calibration, self.promise)
        if record is None:
            return None
        numbers, runtime = record.get("numbers", "float32"), record.get("runtime", "torch")
        # Numbers in single precision are the same everywhere, up to rounding; int8 is each one's own.
        if numbers == self.numbers and (numbers == "float32" or runtime == self.runtime):
            return None
        return (
            f"{self.folder}: the promise of its policy was tested in {numbers} on {runtime}, and not in "
            f"{self.numbers} on {self.runtime}; run 'sharcs calibrate' on the export itself"
        )

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.folder / TOKENIZER_FILE

    @classmethod
    def read(cls, folder: str | Path) -> Bundle:
        """Read the description and see that its files are there.

        Raises:
            InputError: If the directory is none that ``sharcs export`` wrote, or lacks a file.
        """
        folder = Path(folder)
        file = folder / DESCRIPTION_FILE
        if not file.is_file():
            raise InputError(
                f"{folder}: is no exported network (no {DESCRIPTION_FILE}); write one with 'sharcs export'"
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] not in (1, FORMAT, FORMAT_OPENVINO):
                raise InputError(
                    f"{file}: has format {content['format']}, and this version reads up to {FORMAT_OPENVINO}; "
                    "export again"
                )
            content = _of_format_1(content) if content["format"] == 1 else content
            bundle = cls._of(folder, content)
            files = [folder / name for name in content["files"]]
        except InputError:
            raise
        except Exception as error:  # whatever damaged values lead to
            raise InputError(f"{file}: is no description of an exported network ({first_line(error)})") from error
        for file in files:
            if not file.is_file():
                raise InputError(f"{folder}: lacks {file.name}; export again")
        return bundle

    @classmethod
    def _of(cls, folder: Path, content: dict[str, Any]) -> Bundle:
        trunk, subnetworks = content["trunk"], content["subnetworks"]
        costs = [*(entry["cost"] for entry in subnetworks), content["full_cost"]]
        continuations = list(subnetworks[-1].get("cost_after", {}).values())
        names = [str(entry["name"]) for entry in subnetworks]
        padding = {str(name): int(value) for name, value in content["padding"].items()}
        policy = RoutingPolicy(**content["policy"])
        record_of(policy, content.get("calibration"), content.get("promise"))
        if "input_ids" not in padding or not all(0 <= value < 2**31 for value in padding.values()):
            raise ValueError(f"padding {padding}")
        if np.shape(costs) != (len(subnetworks) + 1, 3) or not np.isfinite(costs).all():
            raise ValueError("costs are no three numbers a sub-network")
        if trunk is not None:
            policy.check_names(names)
        return cls(
            folder=folder,
            names=names,
            widths=[float(entry["width"]) for entry in subnetworks],
            labels=[str(name) for name in content["labels"]],
            problem_type=content["problem_type"],
            policy=policy,
            costs=Costs(np.array(costs, np.float64), np.array((continuations or costs[-2:-1])[0], np.float64)),
            max_length=int(content["max_length"]),
            padding=padding,
            trunk=None if trunk is None else folder / trunk["graph"],
            tails=[folder / entry["graph"] for entry in subnetworks],
            front=0 if trunk is None else sum(entry.get("reads") == "tokens" for entry in subnetworks),
            continuation=np.array(continuations[0], np.float64) if continuations else None,
            openvino=frozenset(folder / name for name in _on_openvino([trunk, *subnetworks])),
            int8=bool(content.get("int8", False)),
            int8_embeddings=bool(content.get("int8_embeddings", False)),
            columns=content.get("columns"),
            promise=content.get("promise"),
            calibration=content.get("calibration"),
            label_type=content.get("label_type"),
        )


def _on_openvino(entries: list[dict[str, Any] | None]) -> list[str]:
    """Name the graphs that are for OpenVINO; raises ValueError where one is for something unknown."""
    found = {entry["graph"]: entry.get("runtime", ONNX_RUNTIME) for entry in entries if entry is not None}
    if unknown := {*found.values()} - {*RUNTIMES}:
        raise ValueError(f"graphs for {sorted(map(str, unknown))}")
    return [name for name, runtime in found.items() if runtime == OPENVINO]


def _of_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """Bring a description of the first format into today's, as far as it is read."""
    files = content["files"]
    *costs, full_cost = content["cost_coefficients"]
    names = names_of_widths(content["widths"])
    return content | {
        "trunk": None if files["trunk"] is None else {"graph": files["trunk"]},
        "subnetworks": [
            {"name": name, "width": width, "graph": graph, "cost": cost}
            for name, width, graph, cost in zip(names, content["widths"], files["tails"], costs, strict=True)
        ],
        "full_cost": full_cost,
        "files": files["all"],
    }
