"""Tiny random encoders, a toy task that they learn, and a spy that watches a training run from outside."""

from dataclasses import dataclass, field

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
    TrainerCallback,
)

from sharcs.config import SharcsConfig
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.training.arguments import PAPER, PLUS, PaperTrainingArguments, SharcsTrainingArguments
from sharcs.training.paper import PaperTrainer
from sharcs.training.trainer import SharcsTrainer

torch.set_num_threads(1)

VOCABULARY = 64
HIDDEN = 32
HEADS = 4
NEURONS = 48

# Bands between which a few dozen steps spread the toy rows.
BANDS = {0.25: (0.5, 1.0), 1.0: (0.0, 0.5)}

COMMON = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 0, "initializer_range": 0.15}
BERT_LIKE = COMMON | {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": NEURONS}
DISTILBERT = COMMON | {"dim": HIDDEN, "n_heads": HEADS, "hidden_dim": NEURONS}
CONFIGS = {
    "bert": lambda layers: BertConfig(**BERT_LIKE, num_hidden_layers=layers),
    "roberta": lambda layers: RobertaConfig(**BERT_LIKE, num_hidden_layers=layers, type_vocab_size=1),
    "electra": lambda layers: ElectraConfig(**BERT_LIKE, num_hidden_layers=layers, embedding_size=16),
    "distilbert": lambda layers: DistilBertConfig(**DISTILBERT, n_layers=layers),
    "mpnet": lambda layers: MPNetConfig(**BERT_LIKE, num_hidden_layers=layers),
}


def tiny_encoder(kind="bert", *, layers=3, labels=2, problem_type=None, seed=0):
    """Build a plain classifier with random weights, dropout on."""
    config = CONFIGS[kind](layers)
    config.num_labels = labels
    config.problem_type = problem_type
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)  # they start at zero, which would hide much
    return model


def tiny_model(
    kind="bert",
    *,
    widths=(0.25, 1.0),
    router_layer=1,
    layers=3,
    labels=2,
    problem_type=None,
    seed=0,
    weights="shared",
):
    """Build a routed classifier with random weights."""
    encoder = tiny_encoder(kind, layers=layers, labels=labels, problem_type=problem_type, seed=seed)
    config = SharcsConfig(
        encoder=encoder.config,
        widths=list(widths),
        router_layer=router_layer,
        router_hidden_size=16,
        weights=weights,
        id2label=encoder.config.id2label,
        label2id=encoder.config.label2id,
        problem_type=problem_type,
    )
    return SharcsForSequenceClassification(config, encoder=encoder)


def toy_rows(count, *, seed=0):
    """Make tokenised rows of several lengths.

    Every row names itself by its second and third token, so that a batch tells which rows it holds. A fourth of the
    rows has a random label; the label of the others is in their fourth token.
    """
    assert count <= 256
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        label = int(torch.randint(0, 2, (1,), generator=generator))
        sign = 5 if number % 4 == 0 else 3 + label
        more = int(torch.randint(0, 9, (1,), generator=generator))
        noise = torch.randint(42, VOCABULARY, (more,), generator=generator)
        tokens = [1, 10 + number // 16, 26 + number % 16, sign, *noise.tolist(), 2]
        rows.append({"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": label})
    return rows


# What trains a model of each problem type: the rows' labels, and how many the model has.
TASKS = {
    "one label": ("single_label_classification", 2),
    "labels": ("multi_label_classification", 3),
    "number": ("regression", 1),
    "numbers": ("regression", 2),
}


def task_rows(task, count, *, seed=0):
    """Make rows of :func:`toy_rows` with the labels of one of ``TASKS``, which their fourth token decides.

    Every fourth row has random labels there as well.
    """
    problem_type, _ = TASKS[task]
    rows, generator = toy_rows(count, seed=seed), torch.Generator().manual_seed(seed)
    if problem_type == "single_label_classification":
        return rows
    values = {"labels": [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], "number": [-2.0, 1.0, 4.0]}
    values["numbers"] = [[-2.0, 3.0], [1.0, -1.0], [4.0, 0.5]]
    for number, row in enumerate(rows):
        kind, sign = torch.randint(0, 3, (2,), generator=generator).tolist()
        row["labels"] = values[task][kind]
        row["input_ids"][3] = 3 + (sign if number % 4 == 0 else kind)
    return rows


def task_model(task, **settings):
    """Build the routed classifier for one of ``TASKS``."""
    problem_type, labels = TASKS[task]
    return tiny_model(labels=labels, problem_type=problem_type, **settings)


def rows_of(input_ids):
    """Tell from its tokens which rows of :func:`toy_rows` a batch holds."""
    return [(int(first) - 10) * 16 + int(second) - 26 for first, second in input_ids[:, 1:3]]


def collate(rows):
    """Pad rows to a batch."""
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {
        name: torch.tensor([list(row[name]) + [0] * (longest - len(row[name])) for row in rows])
        for name in ("input_ids", "attention_mask")
    }
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


def batches(count=3):
    """Make batches of eight toy rows."""
    rows = toy_rows(8 * count)
    return [collate(rows[start : start + 8]) for start in range(0, len(rows), 8)]


def hook_counts(model):
    """Count every module's hooks."""
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


TRAINERS = {PAPER: PaperTrainer, PLUS: SharcsTrainer}
RECIPE_WEIGHTS = {PAPER: "shared", PLUS: "own"}  # of the narrow networks that a recipe trains


def arguments(folder, *, recipe=PAPER, **settings):
    """Training arguments for tiny runs on the CPU, every step logged."""
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 3e-3,
        "num_train_epochs": 4,
        "importance_samples": 0,
    }
    if recipe == PLUS:
        return SharcsTrainingArguments(**defaults | settings)
    return PaperTrainingArguments(**defaults | {"window": 2, "bands": dict(BANDS)} | settings)


def trainer_for(folder, model, rows, *, callbacks=(), recipe=PAPER, **settings):
    """Build a trainer of a tiny run."""
    return TRAINERS[recipe](
        model=model,
        args=arguments(folder, recipe=recipe, **settings),
        train_dataset=rows,
        data_collator=collate,
        callbacks=list(callbacks),
    )


def logged_losses(trainer):
    """Return the losses that a training logged, one an optimizer step; of sharcs+, those of both runs."""
    second = getattr(trainer, "subnetwork_trainer", None)
    history = trainer.state.log_history + ([] if second is None else second.state.log_history)
    return [entry["loss"] for entry in history if "loss" in entry]


@dataclass
class Pass:
    """One forward pass in training, as the model saw and answered it."""

    epoch: int
    update: int
    rows: list[int]
    width_index: int
    labels: torch.Tensor
    logits: torch.Tensor
    router_logits: torch.Tensor

    @property
    def confidences(self):
        """Probability of the true class of every row."""
        return [float(p[label]) for p, label in zip(self.logits.double().softmax(1), self.labels, strict=True)]


@dataclass
class Spy(TrainerCallback):
    """Watches a run through a hook on the model and the callbacks of ``transformers``."""

    passes: list[Pass] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)  # optimiser steps of each epoch
    hardness: list = field(default_factory=list)  # the trainer's labels in each epoch
    histories: list = field(default_factory=list)  # the confidence history at the end of each epoch
    routers: list = field(default_factory=list)  # the router's weights at the end of each epoch
    trainer: PaperTrainer | None = None

    def watch(self, trainer):
        """Start watching."""
        self.trainer = trainer
        trainer.add_callback(self)
        self.model = trainer.model
        self.model.register_forward_hook(self._seen, with_kwargs=True)
        return self

    def _seen(self, model, _args, kwargs, output):
        if not model.training:
            return
        widths = set(output.width_index.tolist())
        assert len(widths) == 1, "a batch of several widths"
        self.passes.append(
            Pass(
                epoch=len(self.updates) - 1,
                update=len(self.rates),
                rows=rows_of(kwargs["input_ids"]),
                width_index=widths.pop(),
                labels=kwargs["labels"].clone(),
                logits=output.logits.detach().clone(),
                router_logits=output.router_logits.detach().clone(),
            )
        )

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Count the epoch."""
        self.updates.append(0)

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        """Note the learning rate that the step is going to use."""
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.updates[-1] += 1

    def on_epoch_end(self, args, state, control, **kwargs):
        """Copy what the trainer knows."""
        hardness = self.trainer.hardness
        self.hardness.append(None if hardness is None else hardness.clone())
        self.histories.append(self.trainer.history.values.clone())
        self.routers.append(torch.cat([p.detach().flatten().clone() for p in self.model.tail.router.parameters()]))

    def losses(self):
        """Return the losses that the run logged, one an optimiser step."""
        return logged_losses(self.trainer)

    def in_epoch(self, epoch):
        """Return the epoch's forward passes."""
        return [one for one in self.passes if one.epoch == epoch]
