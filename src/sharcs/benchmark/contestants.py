"""What ``sharcs benchmark`` compares: one network, run in all the ways in which a user could run it."""

from __future__ import annotations

import copy
import importlib
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sharcs.encoders.layers import replace_layers
from sharcs.export.bundle import export_model, quantise
from sharcs.inference.engine import InferenceEngine, batch_tokens_on, tokens_of
from sharcs.inference.folder import best_device, open_model
from sharcs.model.layer_list import RoutedLayerList
from sharcs_runtime.answers import Prediction
from sharcs_runtime.cascade import Routing
from sharcs_runtime.policy import RoutingPolicy, label_of
from sharcs_runtime.scheduler import PooledEngine
from sharcs_runtime.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from sharcs.inference.folder import TrainedModel
    from sharcs.model.text import SharcsForSequenceClassification
    from sharcs_runtime.cascade import Cascade
    from sharcs_runtime.pool import Numbers
    from sharcs_runtime.tokens import Text


class Engine(Protocol):
    """Whatever answers texts."""

    def predict(self, texts: Iterable[Text]) -> Iterator[Prediction]:
        """Answer them in their order."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A row of the benchmark, in a form that another process can read.

    Attributes:
        name: The row's.
        module: Where its opener is; not to be imported before torch is wanted.
        opener: A callable of the module that returns an engine.
        arguments: The opener's.
    """

    name: str
    module: str
    opener: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Engine:
        """Open it in this process."""
        return getattr(importlib.import_module(self.module), self.opener)(**self.arguments)  # type: ignore[no-any-return]


def contestants(trained: TrainedModel, folder: Path, work: Path) -> list[Contestant]:
    """List the rows, in their order.

    Args:
        trained: The network.
        folder: The directory that it is from.
        work: Where :func:`prepare` wrote the other forms of it.
    """
    here, threads = __name__, torch.get_num_threads()
    own, plain = {"folder": str(folder)}, {"folder": str(work / "plain")}

    def on_onnx(name: str, place: str) -> Contestant:
        arguments = {"folder": str(work / place), "threads": threads}
        return Contestant(name, "sharcs_runtime.onnx", "OnnxRunner", arguments)

    return [
        Contestant("pipeline", here, "PipelineEngine", plain),
        Contestant("full", here, "PlainEngine", plain),
        on_onnx("full-ort", "full"),
        on_onnx("full-ort-int8", "full-int8"),
        *(
            Contestant(f"width-{label_of(width)}", here, "open_routed", own | {"width": width})
            for width in trained.model.config.keys
        ),
        Contestant("routed", here, "open_routed", own),
        on_onnx("routed-ort", "routed"),
        on_onnx("routed-ort-int8", "routed-int8"),
    ]


def graphs_to_write(trained: TrainedModel) -> int:
    """Count the graphs that :func:`prepare` writes."""
    return 2 + len(trained.model.config.widths)


def prepare(trained: TrainedModel, work: Path, on_graph: Callable[[int], None] | None = None) -> None:
    """Write all that the contestants read besides the model's own directory.

    Args:
        trained: The network.
        work: A directory to write to.
        on_graph: Called with 1 after each graph, for a progress bar.

    Raises:
        InputError: If the network can't be exported.
    """
    model, tokenizer = trained.model, trained.tokenizer
    plain_network(model).save_pretrained(work / "plain")
    tokenizer.save_pretrained(work / "plain")
    export_model(model, tokenizer, work / "full", width=1.0, on_graph=on_graph)
    export_model(model, tokenizer, work / "routed", on_graph=on_graph)
    for name in ("full", "routed"):
        shutil.copytree(work / name, work / f"{name}-int8")
        quantise(work / f"{name}-int8")


def plain_network(model: SharcsForSequenceClassification) -> PreTrainedModel:
    """Copy the full network out of the routed one, as the Hugging Face model that it was before."""
    encoder = copy.deepcopy(model.encoder)
    (routed,) = [module for module in encoder.modules() if isinstance(module, RoutedLayerList)]
    replace_layers(encoder, routed, routed.plain())
    return encoder


def open_routed(folder: str, width: float | str | None = None) -> InferenceEngine:
    """Open the routed network in PyTorch."""
    trained = open_model(folder)
    return InferenceEngine(trained.model, trained.tokenizer, width=width)


class PlainEngine(PooledEngine[Any]):
    """The plain network, with the routed one's tokenising and batches in the order of length: the fair baseline.

    Args:
        folder: A directory with the plain network and its tokenizer.
    """

    def __init__(self, folder: str) -> None:
        """Load both."""
        super().__init__(forced=True, batch_tokens=batch_tokens_on(best_device()), window=2048)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).to(best_device()).train(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @property
    def max_length(self) -> int:
        """The most tokens of a text that are read."""
        return int(self.tokenizer.model_max_length)

    def _tokenise(self, window: list[Text]) -> Tokens:
        return tokens_of(window, self.tokenizer, self.max_length)

    def _routing(self) -> Routing:
        return Routing(RoutingPolicy(), self.model.config.problem_type, ["full"])

    @torch.inference_mode()
    def _whole(self, inputs: dict[str, Numbers], rows: Numbers, cascade: Cascade) -> None:
        tensors = {name: torch.from_numpy(array).to(self.model.device) for name, array in inputs.items()}
        cascade.begin(rows, 0)
        cascade.put(0, rows, self.model(**tensors).logits.float().cpu().numpy())


class PipelineEngine:
    """``transformers.pipeline`` with its defaults; long texts are truncated, without which it fails.

    Args:
        folder: A directory with the plain network and its tokenizer.
    """

    def __init__(self, folder: str) -> None:
        """Load both."""
        from transformers import pipeline  # here, because it takes its time to import

        self.pipeline: Any = pipeline("text-classification", model=folder, device=best_device())
        # Not label2id, which a configuration that was made in Python may lack.
        id2label: Any = self.pipeline.model.config.id2label
        self.label2id = {label: int(index) for index, label in id2label.items()}

    def predict(self, texts: Iterable[Text]) -> Iterator[Prediction]:
        """Answer texts in their order."""
        inputs = [{"text": text[0], "text_pair": text[1]} if isinstance(text, tuple) else text for text in texts]
        for answer in self.pipeline(inputs, truncation=True):
            yield Prediction(self.label2id[answer["label"]], answer["score"], 0, 0)
