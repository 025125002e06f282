"""Routed encoders: each input uses as much of the network's width as it needs (SHARCS)."""

from sharcs.config import RoutingPolicy, SharcsConfig
from sharcs.errors import InputError
from sharcs.inference.monitor import DriftMonitor
from sharcs.model.media import (
    SharcsForAudioClassification,
    SharcsForImageClassification,
    SharcsForSequenceClassification,
    SharcsOutput,
)
from sharcs.model.tokens import SharcsForQuestionAnswering, SharcsForTokenClassification
from sharcs.training.arguments import PaperTrainingArguments, SharcsTrainingArguments
from sharcs.training.paper import PaperTrainer
from sharcs.training.trainer import SharcsTrainer

__version__ = "0.1.0"

__all__ = [
    "DriftMonitor",
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
]
