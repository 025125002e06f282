"""Routed encoders: each input uses as much of the network's width as it needs (SHARCS)."""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from sharcs_runtime.errors import InputError, MissingPackageError

try:
    # The models come at once, because importing them registers them with the Auto classes of transformers.
    from sharcs.config import RoutingPolicy, SharcsConfig
    from sharcs.encoders.architectures import Architecture, register_architecture
    from sharcs.model.media import SharcsForAudioClassification, SharcsForImageClassification
    from sharcs.model.outputs import SharcsOutput
    from sharcs.model.text import SharcsForSequenceClassification
    from sharcs.model.tokens import SharcsForQuestionAnswering, SharcsForTokenClassification
except ModuleNotFoundError as error:
    if (error.name or "").startswith("sharcs"):
        raise
    raise MissingPackageError(error, "train") from error

if TYPE_CHECKING:
    from sharcs.inference.engine import InferenceEngine
    from sharcs.inference.monitor import DriftMonitor
    from sharcs.jobs.classifier import Classifier
    from sharcs.training.arguments import PaperTrainingArguments, SharcsTrainingArguments
    from sharcs.training.paper import PaperTrainer
    from sharcs.training.trainer import SharcsTrainer

__all__ = [
    "Architecture",
    "Classifier",
    "DriftMonitor",
    "InferenceEngine",
    "InputError",
    "PaperTrainer",
    "PaperTrainingArguments",
    "RoutingPolicy",
    "SharcsConfig",
    "SharcsForAudioClassification",
    "SharcsForImageClassification",
    "SharcsForQuestionAnswering",
    "SharcsForSequenceClassification",
    "SharcsForTokenClassification",
    "SharcsOutput",
    "SharcsTrainer",
    "SharcsTrainingArguments",
    "register_architecture",
]

__version__ = metadata.version("sharcs")

# Imported on use, since they need more than a model does.
_MODULES = {
    "Classifier": "sharcs.jobs.classifier",
    "DriftMonitor": "sharcs.inference.monitor",
    "InferenceEngine": "sharcs.inference.engine",
    "PaperTrainer": "sharcs.training.paper",
    "PaperTrainingArguments": "sharcs.training.arguments",
    "SharcsTrainer": "sharcs.training.trainer",
    "SharcsTrainingArguments": "sharcs.training.arguments",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
