"""The two runs of sharcs+: what each evaluates, stops at and keeps as its best, and what people bring along."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, TrainerCallback

from helpers.tiny import arguments, collate, tiny_model, toy_rows
from sharcs.errors import InputError
from sharcs.training.arguments import PLUS
from sharcs.training.subnetworks import learning_parameters
from sharcs.training.trainer import SharcsTrainer

ROWS, EPOCHS, NARROW_EPOCHS = 24, 2, 2
STEPS = ROWS // 8


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def trainer_of(folder, *, model=None, rows=None, callbacks=(), metrics=accuracy, kind=SharcsTrainer, **more):
    """Build a trainer; settings of the trainer's own are told from those of the training by their names."""
    own = {name: more.pop(name) for name in ("model_init", "optimizers", "compute_loss_func") if name in more}
    defaults = {"num_train_epochs": EPOCHS, "subnetwork_epochs": NARROW_EPOCHS, "importance_samples": 8}
    return kind(
        model=model or (None if "model_init" in own else tiny_model(weights="own")),
        args=arguments(folder, recipe=PLUS, **defaults | more),
        train_dataset=toy_rows(ROWS) if rows is None else rows,
        eval_dataset=toy_rows(16, seed=7),
        data_collator=collate,
        compute_metrics=metrics,
        callbacks=list(callbacks),
        **own,
    )


def full_weights(model):
    later = {id(p) for kind in learning_parameters(model).values() for p in kind}
    return {name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in later}


def narrow_weights(model):
    return [p.detach().clone() for kind in learning_parameters(model).values() for p in kind]


def same(one, other):
    return all(torch.equal(one[name], value) for name, value in other.items())


def moved(before, after):
    return any(not torch.equal(*pair) for pair in zip(before, after, strict=True))


def evaluations(trainer):
    return [entry for entry in trainer.state.log_history if "eval_loss" in entry]


class Falling:
    """A metric that falls from one evaluation to the next, whatever is answered."""

    def __init__(self):
        """Start at 0."""
        self.value = 0.0

    def __call__(self, prediction):
        """Fall."""
        self.value -= 1.0
        return {"score": self.value}


BEST = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "score",
    "greater_is_better": True,
}


# Evaluation


def test_the_first_run_evaluates_the_full_network_and_the_second_the_routed_one_and_each_width(tmp_path):
    seen = []

    def note(module, _args, kwargs, output):
        if not module.training and kwargs.get("labels") is not None and output.width_logits is None:
            seen.append(kwargs.get("width"))

    trainer = trainer_of(tmp_path, eval_strategy="epoch", importance_samples=0)
    trainer.model.register_forward_hook(note, with_kwargs=True)
    trainer.train()
    first, second = evaluations(trainer), evaluations(trainer.subnetwork_trainer)
    assert len(first) == EPOCHS
    assert len(second) == NARROW_EPOCHS
    assert not any("width" in name for name in first[0])
    widths = {name for name in second[0] if "_width_" in name}
    assert {"eval_width_0.25_accuracy", "eval_width_1_accuracy", "eval_width_0.25_loss"} <= widths
    batches = 2
    teacher = [1.0] * STEPS
    expected = [1.0] * batches * EPOCHS + teacher + ([None] * batches + [0.25] * batches + [1.0] * batches) * 2
    assert seen == expected


def test_evaluation_after_training_is_that_of_the_routed_network_and_of_each_width(tmp_path):
    rows = toy_rows(16, seed=7)
    trainer = trainer_of(tmp_path)
    trainer.train()
    metrics, model = trainer.evaluate(), trainer.model.eval()
    labels = [row["labels"] for row in rows]
    for name, way in {"eval": {}, "eval_width_0.25": {"width": 0.25}, "eval_width_1": {"width": 1.0}}.items():
        with torch.no_grad():
            named = model(**collate(rows), **way).logits.argmax(-1).tolist()
        assert metrics[f"{name}_accuracy"] == pytest.approx(np.mean(np.array(named) == labels))


# Stopping, the best checkpoint, callbacks


def test_stopping_the_first_run_early_starts_the_second_from_its_best(tmp_path):
    trainer = trainer_of(
        tmp_path, num_train_epochs=5, metrics=Falling(), callbacks=[EarlyStoppingCallback(1)], **BEST
    )
    before = narrow_weights(trainer.model)
    trainer.train()
    best = load_file(tmp_path / f"checkpoint-{STEPS}" / "model.safetensors")
    assert trainer.state.global_step == 2 * STEPS  # of five epochs
    assert same(best, full_weights(trainer.model))
    second = trainer.subnetwork_trainer
    # A counter of its own: it runs as long again, and its best is its own, too.
    assert second.state.global_step == 2 * STEPS
    folder = tmp_path / "subnetworks" / f"checkpoint-{STEPS}"
    assert second.state.best_model_checkpoint == str(folder)
    assert same(trainer.model.state_dict(), load_file(folder / "model.safetensors"))
    assert moved(before, narrow_weights(trainer.model))


class Counter(TrainerCallback):
    """Counts epochs, in a number and in a list."""

    def __init__(self):
        """Start at 0."""
        self.epochs, self.seen = 0, []

    def on_epoch_end(self, args, state, control, **kwargs):
        """Count one."""
        self.epochs += 1
        self.seen.append(self.epochs)


def test_each_run_has_copies_of_the_callbacks(tmp_path):
    counter = Counter()
    trainer = trainer_of(tmp_path, callbacks=[counter])
    trainer.train()
    assert counter.epochs == EPOCHS
    assert counter.seen == [1, 2, 1, 2]


# What people bring along


def test_a_model_init_is_trained_in_both_runs(tmp_path):
    made, starts = [], []

    def init():
        made.append(tiny_model(weights="own", seed=len(made)))
        starts.append(narrow_weights(made[-1]))
        return made[-1]

    trainer = trainer_of(tmp_path, model_init=init)
    trainer.train()
    assert trainer.model is made[-1]
    assert len(made) == 2
    assert moved(starts[-1], narrow_weights(trainer.model))
    assert trainer.model.config.routing_policy.escalates
    for config in (trainer.model.config, trainer.model.encoder.config):
        assert config.problem_type == "single_label_classification"


def test_a_search_is_told_the_routed_networks_objective_and_each_trial_begins_anew(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    reports, pruned = [], []

    class Pruner(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            pruned.append(trial.number)
            return True

    trainer = trainer_of(
        tmp_path, model_init=lambda: tiny_model(weights="own"), eval_strategy="epoch", num_train_epochs=1
    )
    evaluate = trainer.evaluate

    def noted(*args, **kwargs):
        reports.append(evaluate(*args, **kwargs))
        return reports[-1]

    trainer.evaluate = noted
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"subnetwork_epochs": trial.suggest_int("subnetwork_epochs", 1, 2)},
        backend="optuna",
        n_trials=2,
        direction="maximize",
        pruner=Pruner(),
    )
    assert pruned == []  # the full network's accuracy is no objective
    finals = [metrics for metrics in reports if "eval_width_0.25_accuracy" in metrics]
    assert len(finals) == 2
    assert best.objective == max(metrics["eval_accuracy"] for metrics in finals)
    assert set(best.hyperparameters) == {"subnetwork_epochs"}
    assert trainer.args.num_train_epochs == 1


def test_an_optimizer_that_holds_all_parameters_serves_both_runs(tmp_path):
    model = tiny_model(weights="own")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before, full = narrow_weights(model), full_weights(model)
    rates = []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    trainer_of(tmp_path, model=model, optimizers=(optimizer, None), callbacks=[Rates()]).train()
    assert moved(before, narrow_weights(model))
    assert not same(full, full_weights(model))
    assert rates[0] == rates[EPOCHS * STEPS] == 1e-3


@pytest.mark.parametrize("which", ["full", "narrow", "scheduler"])
def test_an_optimizer_of_one_run_is_refused(tmp_path, which):
    model = tiny_model(weights="own")
    later = {p for kind in learning_parameters(model).values() for p in kind}
    parameters = {"full": [p for p in model.parameters() if p not in later], "narrow": later}
    optimizer = torch.optim.AdamW(list(parameters.get(which, model.parameters())))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0) if which == "scheduler" else None
    with pytest.raises(InputError, match="optimizers: "):
        trainer_of(tmp_path, model=model, optimizers=(optimizer, scheduler))


def weighted(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs["logits"], labels, weight=torch.tensor([1.0, 5.0]))


class Weighted(SharcsTrainer):
    """As the documentation of transformers weighs classes; it names the inputs that it takes."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """Weigh."""
        labels = inputs["labels"]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = weighted(outputs, labels)
        return (loss, outputs) if return_outputs else loss


def test_a_loss_of_the_users_own_trains_the_full_network_and_then_the_narrow_ones_learn(tmp_path):
    ways = [{"kind": Weighted}, {"compute_loss_func": weighted}, {"class_weights": [1.0, 5.0]}, {}]
    losses = []
    for number, way in enumerate(ways):
        trainer = trainer_of(tmp_path / str(number), **way)
        before = narrow_weights(trainer.model)
        trainer.train()
        assert moved(before, narrow_weights(trainer.model))
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])  # the first run's
    by_class, by_function, ours, plain = losses
    assert by_function == pytest.approx(by_class, rel=1e-3)
    assert ours == pytest.approx(by_class, rel=1e-3)
    assert plain != pytest.approx(by_class, rel=1e-2)
