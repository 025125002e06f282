"""Two recipes: sharcs+ and the paper's."""

from sharcs.training.arguments import PaperTrainingArguments, SharcsTrainingArguments
from sharcs.training.paper import PaperTrainer
from sharcs.training.trainer import SharcsTrainer

__all__ = ["PaperTrainer", "PaperTrainingArguments", "SharcsTrainer", "SharcsTrainingArguments"]
