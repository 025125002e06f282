"""What the runs after the full network's have in common: it is fixed, and others learn from its answers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerState, set_seed

from sharcs.config import BLEND, RoutingPolicy, SharcsConfig
from sharcs.training.arguments import SharcsTrainingArguments
from sharcs.training.base import RoutedTrainer
from sharcs.training.checkpoints import LAST_FILE, step_of
from sharcs.training.importance import measure_importance
from sharcs.training.processes import gathered, process_count, process_number, share_weights
from sharcs_runtime.scores import REGRESSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from sharcs.model.base import RoutedModel
    from sharcs.model.outputs import SharcsOutput

# Start narrow unless the router finds it hopeless, and let an unsure answer continue.
PLUS_POLICY = RoutingPolicy(cost_weight=1.0, escalation_threshold=0.9, blend=BLEND)


class Learner(NamedTuple):
    """Parameters that learn at one rate.

    Attributes:
        parameters: They.
        times: Their rate as a multiple of the learning rate.
    """

    parameters: list[nn.Parameter]
    times: float


def set_policy(config: SharcsConfig) -> None:
    """Give a model that has the default policy the one of ``sharcs+``.

    A regression keeps the default, the router's argmax: nothing would correct a start that is too narrow. Where
    sub-networks stand in front of the encoder, an input begins at the first, and goes on to the next while it is
    unsure.
    """
    if config.routing_policy != RoutingPolicy() or config.problem_type == REGRESSION:
        return
    config.policy = PLUS_POLICY.to_dict()
    if config.front_count:
        limits = dict.fromkeys(config.names[:-1], PLUS_POLICY.escalation_threshold)
        config.policy = {"start": config.names[0], "escalation_threshold": limits, "blend": BLEND}


@contextlib.contextmanager
def learning_alone(model: RoutedModel, learners: list[Learner]) -> Iterator[None]:
    """Freeze all other parameters for a while."""
    learning = {parameter for learner in learners for parameter in learner.parameters}
    frozen = [p for p in model.parameters() if p.requires_grad and p not in learning]
    for parameter in frozen:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


class LaterTrainer(RoutedTrainer):
    """Trains parts of a network on what the full network, fixed, answers.

    Its arguments are those of :class:`~sharcs.training.base.RoutedTrainer`.
    """

    args: SharcsTrainingArguments
    arguments: ClassVar[type[SharcsTrainingArguments]] = SharcsTrainingArguments
    run: ClassVar[str]  # in the facts of its checkpoints
    lesson_widths: ClassVar[str]  # that a training pass runs
    loss_is_scaled_for_ga = False
    _begins_anew: bool = True
    facts_of_all: dict[str, Any] | None = None  # of the training that it belongs to
    _teacher: Tensor | None = None  # of every row, [rows, labels] or [rows, longest, labels] without padding

    def networks(self) -> list[Any]:
        """List the sub-networks that learn."""
        raise NotImplementedError

    def learners(self) -> list[Learner]:
        """List all parameters that learn."""
        raise NotImplementedError

    def begin(self) -> None:
        """Give what learns its first values, in a run that begins anew."""
        raise NotImplementedError

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train; see ``transformers.Trainer.train``.

        Args:
            resume_from_checkpoint: A checkpoint of this run; the one of step 0 holds what earlier runs have learned.
            trial: None.
            ignore_keys_for_eval: Outputs that evaluation leaves out.
        """
        checkpoint = self.checkpoint_of(resume_from_checkpoint)
        if checkpoint is not None and step_of(checkpoint) == 0:
            # Nothing was learned yet, so there is no optimizer.
            self.model.load_state_dict(load_file(Path(checkpoint) / "model.safetensors"), strict=False)
            checkpoint = None
        self._begins_anew, self._teacher = checkpoint is None, None
        set_policy(self.model.config)
        set_seed(self.args.seed)
        if checkpoint is None and self.args.save_strategy != "no":
            self._save_beginning()
        with learning_alone(self.model, self.learners()):
            return super().train(checkpoint, trial, ignore_keys_for_eval)

    def _save_beginning(self) -> None:
        """Save what the run before has ended with, which may be epochs after its last checkpoint."""
        folder = Path(str(self.args.output_dir)) / "checkpoint-0"
        self.save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            TrainerState(epoch=0.0).save_to_json(str(folder / LAST_FILE))

    def create_optimizer(self, model: Any = None) -> Any:
        """Create the optimizer of transformers; what learns has rates of its own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if not is_new:
            return optimizer
        first, *others = self.learners()
        elsewhere = [set(learner.parameters) for learner in others]
        for group in list(optimizer.param_groups):
            options = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
            parts = [[p for p in group["params"] if p in of] for of in elsewhere]
            rest = [p for p in group["params"] if not any(p in of for of in elsewhere)]
            group["params"], group["lr"] = rest, first.times * options["lr"]
            for learner, parameters in zip(others, parts, strict=True):
                if parameters:
                    optimizer.add_param_group({**options, "params": parameters, "lr": learner.times * options["lr"]})
        return optimizer

    def orders_of(self, layers: list[nn.Module]) -> list[tuple[Tensor, Tensor]] | None:
        """Rank heads and neurons of some layers, the most important first; None if the settings want none."""
        if not self.args.importance_samples:
            return None
        return measure_importance(self.model, self.importance_batches(), layers).orders()

    def lesson(self, outputs: SharcsOutput, teacher: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Compute the loss of a training pass, a scalar.

        Args:
            outputs: Of the pass at ``lesson_widths``.
            teacher: What the full network has answered, ``[batch, ...]``.
            inputs: The batch.
        """
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the lesson's loss in training, and outside it the task loss of the routed network."""
        sample_ids = inputs.pop("sample_id", None)
        if sample_ids is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # What is fixed is also free of dropout, so that everybody sees what will be there later.
        self.model.train(False)
        for network in self.networks():
            network.train(True)
        outputs = model(**inputs, widths=self.lesson_widths)
        loss = self.lesson(outputs, self._teacher_of(sample_ids, outputs, inputs), inputs)
        return (loss, outputs) if return_outputs else loss

    def evaluated_widths(self) -> list[float | str]:
        """List what is evaluated besides the routed network."""
        return self.widths

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Build the loader of numbered rows, once the full network has answered all of them."""
        if self._teacher is None:
            self.begin_together()
            with self.accelerator.autocast():
                if self._begins_anew:
                    self.begin()
                    share_weights(self.model)
                self._teacher = self._answers()
        return self.planned_loader(self.plan)

    @torch.no_grad()
    def _answers(self) -> Tensor:
        """Ask the full network about every training row, those of like length together; processes share them out."""
        assert self.task is not None
        size = self.args.per_device_eval_batch_size
        if self.args.auto_find_batch_size:
            size = min(size, self._train_batch_size)
        counts = self.token_counts()
        order = sorted(range(len(counts)), key=lambda row: -counts[row])
        every = range(size * process_number(), len(order), size * process_count())
        rows = [row for start in every for row in order[start : start + size]]
        answers: list[Tensor] = []
        was_training = self.model.training
        self.model.train(False)
        for _, batch in self.rows_in_batches(rows, size):
            answer = self.model.answer_of(self.model(**batch, width=1.0)).float().cpu()
            answers += self.task.kept(answer, batch)
        self.model.train(was_training)
        # As one tensor each: that of a row is small beside its wrapping.
        parts = gathered((rows, pad_sequence(answers, batch_first=True) if rows else answers))
        numbers = [row for of_process, _ in parts for row in of_process]
        padded = [answer for _, of_process in parts for answer in of_process]
        return pad_sequence(padded, batch_first=True)[torch.tensor(numbers).argsort()]

    def _teacher_of(self, sample_ids: Tensor, outputs: SharcsOutput, inputs: dict[str, Any]) -> Tensor:
        """Look up what the full network has answered to a batch, on the device of its outputs."""
        assert self._teacher is not None
        assert self.task is not None
        assert outputs.width_logits is not None
        return self.task.padded(self._teacher[sample_ids.cpu()].to(outputs.width_logits.device), inputs)

    def facts(self) -> dict[str, Any]:
        """Say what the whole training has to have in common with its checkpoints."""
        return super().facts() if self.facts_of_all is None else self.facts_of_all

    def progress(self) -> dict[str, Any]:
        """Say which run it is."""
        return {"run": self.run}
