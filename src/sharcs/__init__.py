"""Routed encoders: each input uses as much of the network's width as it needs (SHARCS)."""

from sharcs.config import RoutingPolicy, SharcsConfig
from sharcs.drift import DriftMonitor
from sharcs.errors import InputError
from sharcs.modeling import (
    SharcsForAudioClassification,
    SharcsForImageClassification,
    SharcsForSequenceClassification,
    SharcsOutput,
)
from sharcs.token_modeling import SharcsForQuestionAnswering, SharcsForTokenClassification
from sharcs.training import SharcsTrainer
from sharcs.training_arguments import SharcsTrainingArguments

__version__ = "0.1.0"

__all__ = [
    "DriftMonitor",
    "InputError",
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
