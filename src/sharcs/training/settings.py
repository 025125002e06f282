"""What each setting of transformers' training means here: passed on as it is, of our own meaning, or refused.

A setting that stands in no table fails a test, so that a new version of transformers brings none unseen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

from sharcs.errors import InputError
from sharcs.training.arguments import PAPER, PLUS
from sharcs.training.processes import launched_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import TrainingArguments

# Fields of TrainingArguments and arguments of Trainer that do what they do in transformers, in each run.
PASSED_ON = frozenset(
    [
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "optim_target_modules",
        "gradient_accumulation_steps",
        "max_grad_norm",
        "bf16",
        "fp16",
        "bf16_full_eval",
        "fp16_full_eval",
        "tf32",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "liger_kernel_config",
        "use_cache",
        "neftune_noise_alpha",
        "torch_empty_cache_steps",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "log_on_each_node",
        "logging_nan_inf_filter",
        "include_num_input_tokens_seen",
        "log_level",
        "log_level_replica",
        "disable_tqdm",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "per_device_eval_batch_size",
        "prediction_loss_only",
        "eval_on_start",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "eval_accumulation_steps",
        "include_for_metrics",
        "batch_eval_metrics",
        "save_only_model",
        "save_strategy",
        "save_steps",
        "save_on_each_node",
        "save_total_limit",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "restore_callback_states_from_checkpoint",
        "full_determinism",
        "seed",
        "data_seed",
        "use_cpu",
        "accelerator_config",
        "dataloader_drop_last",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
        "dataloader_in_order",
        "remove_unused_columns",
        "label_names",
        "length_column_name",
        "ddp_backend",
        "ddp_timeout",
        "fsdp_config",
        "debug",
        "skip_memory_metrics",
        "do_train",
        "do_eval",
        "do_predict",
        "resume_from_checkpoint",
        "local_rank",
        "data_collator",
        "eval_dataset",
        "processing_class",
        "compute_metrics",
        "optimizer_cls_and_kwargs",
        "preprocess_logits_for_metrics",
    ]
)

NO_DDP = "No effect: gradients are averaged without DistributedDataParallel."

# What they mean here.
OWN = {
    "output_dir": "Checkpoints of sharcs+'s second run are in its folder 'subnetworks'.",
    "per_device_train_batch_size": "32 by default, times processes. The paper's batches hold one width each.",
    "num_train_epochs": "By the recipe; of sharcs+ the full network's, 0 where it is fine-tuned already.",
    "learning_rate": "By the recipe. In sharcs+'s second run narrow networks have twice, the router ten times it.",
    "auto_find_batch_size": "Each run finds its own; the second one starts at what the first one ended with.",
    "train_sampling_strategy": "group_by_length by default. In batches that are planned here, others shuffle.",
    "average_tokens_across_devices": "Of several processes, each knows the whole batch and its count.",
    "ddp_find_unused_parameters": NO_DDP,
    "ddp_bucket_cap_mb": NO_DDP,
    "ddp_broadcast_buffers": NO_DDP,
    "ddp_static_graph": NO_DDP,
    "model": "A routed one, whose weights decide the recipe.",
    "args": "Ours; plain ones get the recipe's defaults for the rest.",
    "train_dataset": "Its rows have numbers, so it can't be streamed.",
    "model_init": "Called once a training; the second run of sharcs+ goes on with the first one's model.",
    "callbacks": "The second run of sharcs+ has copies, as they were before the first one.",
    "optimizers": "An optimizer has to hold what learns in both runs of sharcs+; a scheduler serves one run.",
    "compute_loss_func": "Of the full network alone; the narrow ones learn from its answers.",
    "label_smoothing_factor": "Of the full network alone; the narrow ones learn from its answers.",
}

# By whom, and what to do instead. A field is refused where it is set: neither false nor −1.
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "max_steps": ((PLUS,), "sharcs+ trains whole epochs; give num_train_epochs and subnetwork_epochs"),
    "ignore_data_skip": ((PLUS, PAPER), "a resumed run has to go on at its place in the epoch; leave it out"),
    "enable_jit_checkpoint": ((PLUS, PAPER), "its checkpoint may lack our part; save by save_strategy"),
    "use_liger_kernel": ((PLUS, PAPER), "it has no kernels for routed layers; leave it out"),
    "push_to_hub": ((PLUS, PAPER), "would publish models that are half trained; call push_to_hub() in the end"),
    "fsdp": ((PLUS, PAPER), "each process trains the whole model; leave it out"),
    "deepspeed": ((PLUS, PAPER), "each process trains the whole model; leave it out"),
    "parallelism_config": ((PLUS, PAPER), "each process trains the whole model; leave it out"),
    "label_smoothing_factor": ((PAPER,), "the loss is the paper's; leave it out, or train the recipe sharcs+"),
    "compute_loss_func": ((PAPER,), "the loss is the paper's; give class_weights, or train the recipe sharcs+"),
}


def check_settings(recipe: str, settings: TrainingArguments, given: Mapping[str, Any]) -> None:
    """Refuse what a recipe can't follow.

    Args:
        recipe: The recipe's name.
        settings: The training's.
        given: The arguments of the trainer, by name.

    Raises:
        InputError: If there is anything; the message names it, and what to do.
    """
    for name, (recipes, remedy) in REFUSED.items():
        value = given[name] if name in given else getattr(settings, name)
        if recipe in recipes and value and value != -1:
            raise InputError(f"{name}: {remedy}")
    _check_processes(settings)
    if recipe == PAPER and settings.train_sampling_strategy not in ("group_by_length", "random"):
        raise InputError(
            f"train_sampling_strategy {settings.train_sampling_strategy}: the paper has group_by_length or "
            "random; choose one"
        )
    _check_loss(settings, given)
    rows = given["train_dataset"]
    if rows is not None and (isinstance(rows, IterableDataset) or not hasattr(rows, "__len__")):
        raise InputError("train_dataset: streaming data has no rows with numbers; load it as a map-style data set")
    if rows is not None and len(rows) == 0:
        raise InputError("train_dataset: has no rows; give at least one")


def _check_processes(settings: TrainingArguments) -> None:
    """Refuse several GPUs in one process, and what several processes would not do as one does."""
    if settings.n_gpu > 1:
        raise InputError(
            f"{settings.n_gpu} GPUs in one process: a process trains on one; start one each with torchrun, or name a "
            "GPU in CUDA_VISIBLE_DEVICES"
        )
    if settings.world_size == 1:
        if launched_count() > 1:
            raise InputError(
                f"use_cpu: {launched_count()} processes were launched, and each would train alone; set it where "
                "there are no GPUs"
            )
        return
    several = f"with {settings.world_size} processes"
    if settings.auto_find_batch_size:
        raise InputError(f"auto_find_batch_size: {several} one alone may lack memory; give the size of batches")
    if settings.include_num_input_tokens_seen != "no":
        raise InputError(f"include_num_input_tokens_seen: {several} is counted in each; leave it out")
    if settings.train_sampling_strategy == "batch_rebalance":
        raise InputError(f"train_sampling_strategy batch_rebalance: {several} rows are shared out here; leave it out")
    for name in ("split_batches", "dispatch_batches"):
        if getattr(settings.accelerator_config, name):
            raise InputError(f"accelerator_config {name}: {several} rows are shared out here; leave it out")


def _check_loss(settings: TrainingArguments, given: Mapping[str, Any]) -> None:
    """Refuse two ways to say what the full network minimises."""
    ways = {
        "class_weights": getattr(settings, "class_weights", None),
        "label_smoothing_factor": settings.label_smoothing_factor,
        "compute_loss_func": given["compute_loss_func"],
    }
    names = [name for name, value in ways.items() if value]
    if "class_weights" in names and len(names) > 1:
        raise InputError(f"{', '.join(names)}: each is a loss of its own; give one of them")
