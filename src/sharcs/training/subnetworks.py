"""The second run of the recipe ``sharcs+``: narrow networks and router learn from the full network, which is fixed.

They come after fine-tuning, so that the full network is exactly what it would be without them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerState, set_seed

from sharcs.config import BLEND, RoutingPolicy, SharcsConfig
from sharcs.tasks.losses import REGRESSION, router_loss
from sharcs.training.arguments import SharcsTrainingArguments
from sharcs.training.base import RoutedTrainer
from sharcs.training.checkpoints import LAST_FILE, step_of
from sharcs.training.hardness import narrowest_sure
from sharcs.training.importance import measure_importance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from sharcs.model.base import RoutedModel

RUN = "sub-networks"  # in the facts of its checkpoints
# Of the learning rate: what starts far from its end learns faster.
RATES = {"narrow": 2, "router": 10}
# Start narrow unless the router finds it hopeless, and let an unsure answer continue.
PLUS_POLICY = {"cost_weight": 1.0, "escalation_threshold": 0.9, "blend": BLEND}


def set_policy(config: SharcsConfig) -> None:
    """Give a model that has the default policy the one of ``sharcs+``.

    A regression keeps the default, the router's argmax: nothing would correct a start that is too narrow.
    """
    if config.routing_policy == RoutingPolicy() and config.problem_type != REGRESSION:
        config.policy = dict(PLUS_POLICY)


def narrow_networks(model: RoutedModel) -> list[Any]:
    """List the sub-networks that learn from the full one."""
    return list(model.tail.narrow)


def learning_parameters(model: RoutedModel) -> dict[str, list[nn.Parameter]]:
    """List what learns in the second run: the narrow networks' parameters and the router's."""
    narrow = [parameter for network in narrow_networks(model) for parameter in network.parameters()]
    return {"narrow": narrow, "router": list(model.tail.router.parameters())}


@contextlib.contextmanager
def _learning_alone(model: RoutedModel) -> Iterator[None]:
    """Freeze all other parameters for a while."""
    learning = {parameter for kind in learning_parameters(model).values() for parameter in kind}
    frozen = [p for p in model.parameters() if p.requires_grad and p not in learning]
    for parameter in frozen:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


class SubnetworkTrainer(RoutedTrainer):
    """Trains narrow networks and router on what the full network, fixed, answers; :class:`SharcsTrainer` makes it.

    Its arguments are those of :class:`~sharcs.training.base.RoutedTrainer`.
    """

    args: SharcsTrainingArguments
    arguments: ClassVar[type[SharcsTrainingArguments]] = SharcsTrainingArguments
    loss_is_scaled_for_ga = False
    _begins_anew: bool = True
    _teacher: Tensor | None = None  # of every row, [rows, labels] or [rows, longest, labels] without padding

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train; see ``transformers.Trainer.train``.

        Args:
            resume_from_checkpoint: A checkpoint of this run; the one of step 0 holds the full network alone.
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
        with _learning_alone(self.model):
            return super().train(checkpoint, trial, ignore_keys_for_eval)

    def _save_beginning(self) -> None:
        """Save what the first run has ended with, which may be epochs after its last checkpoint."""
        folder = Path(str(self.args.output_dir)) / "checkpoint-0"
        self.save_model(str(folder), _internal_call=True)
        TrainerState(epoch=0.0).save_to_json(str(folder / LAST_FILE))

    def create_optimizer(self, model: Any = None) -> Any:
        """Create the optimizer of transformers; narrow networks and router have rates of their own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if not is_new:
            return optimizer
        router = set(learning_parameters(self.model)["router"])
        for group in list(optimizer.param_groups):
            options = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
            parts = {"narrow": [p for p in group["params"] if p not in router]}
            parts["router"] = [p for p in group["params"] if p in router]
            group["params"], group["lr"] = parts["narrow"], RATES["narrow"] * options["lr"]
            if parts["router"]:
                optimizer.add_param_group(
                    {**options, "params": parts["router"], "lr": RATES["router"] * options["lr"]}
                )
        return optimizer

    # What is learned

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Build the loader of numbered rows, once the full network has answered all of them."""
        if self._teacher is None:
            with self.accelerator.autocast():
                if self._begins_anew:
                    self._cut()
                self._teacher = self._answers()
        return self.planned_loader(self.plan)

    def _cut(self) -> None:
        """Cut the narrow networks out of the full one."""
        orders = None
        if self.args.importance_samples:
            orders = measure_importance(self.model, self.importance_batches()).orders()
        for network in narrow_networks(self.model):
            network.fill(list(self.model.tail.layers), orders)

    @torch.no_grad()
    def _answers(self) -> Tensor:
        """Ask the full network about every training row, those of like length together."""
        assert self.task is not None
        size = self.args.per_device_eval_batch_size
        if self.args.auto_find_batch_size:
            size = min(size, self._train_batch_size)
        counts = self.token_counts()
        order = sorted(range(len(counts)), key=lambda row: -counts[row])
        answers: list[Tensor] = []
        was_training = self.model.training
        self.model.train(False)
        for _, batch in self.rows_in_batches(order, size):
            answer = self.model.answer_of(self.model(**batch, width=1.0)).float().cpu()
            answers += self.task.kept(answer, batch)
        self.model.train(was_training)
        return pad_sequence(answers, batch_first=True)[torch.tensor(order).argsort()]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """λ_task · the narrow networks' loss + λ_router · binary cross-entropy of the router.

        The router learns which is the narrowest width that is sure of the truth, by its confidence in this pass.
        Outside training it is the task loss of the routed network.
        """
        sample_ids = inputs.pop("sample_id", None)
        if sample_ids is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        assert self._teacher is not None
        assert self.task is not None
        # What is fixed is also free of dropout, so that everybody sees what will be there later.
        self.model.train(False)
        for network in narrow_networks(self.model):
            network.train(True)
        outputs = model(**inputs, widths="narrow")
        labels = self.task.labels_of(inputs)
        narrow = outputs.width_logits.float()
        teacher = self.task.padded(self._teacher[sample_ids.cpu()].to(narrow.device), inputs)
        confidences = self.task.confidence(torch.cat([narrow, teacher.unsqueeze(0)]), labels)
        task_loss = self.task.distillation_loss(narrow, teacher, labels)
        loss_of_router = router_loss(outputs.router_logits, narrowest_sure(confidences.T))
        loss = self.args.task_loss_weight * task_loss + self.args.router_loss_weight * loss_of_router
        return (loss, outputs) if return_outputs else loss

    def evaluated_widths(self) -> list[float]:
        """List the widths that are evaluated besides the routed network."""
        return self.widths

    def progress(self) -> dict[str, Any]:
        """Say which run it is."""
        return {"run": RUN}
