"""The narrow network and the router of sharcs+, by the package's recipe, from the reference's network."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
import transformers

import sharcs
from common import collator, processor_seconds, tokenizer
from judge.answers import Answers
from judge.networks import over
from sharcs import SharcsForSequenceClassification, SharcsTrainer, SharcsTrainingArguments
from sharcs_runtime.policy import flops

if TYPE_CHECKING:
    from judge.data import Parts, Rows
    from judge.networks import Network

READOUTS = {"cls": "first", "mean": "mean"}  # as the package calls them


def as_dataset(rows: Rows) -> datasets.Dataset:
    """Turn rows into what a Trainer takes."""
    content = {
        "input_ids": rows.ids,
        "token_type_ids": rows.types,
        "attention_mask": [[1] * len(ids) for ids in rows.ids],
        "labels": rows.labels.tolist(),
        "length": rows.lengths.tolist(),
    }
    return datasets.Dataset.from_dict(content)


def routed(network: Network, **settings: Any) -> SharcsForSequenceClassification:
    """Wrap a fine-tuned network: at full width it is the same, read-out included."""
    with tempfile.TemporaryDirectory() as folder:
        network.model.save_pretrained(folder)
        return SharcsForSequenceClassification.from_encoder(
            folder, num_labels=network.labels, readout=READOUTS[network.readout], **settings
        )


def train(
    network: Network, parts: Parts, settings: dict[str, Any], *, seed: int, state: Path
) -> tuple[SharcsForSequenceClassification, dict[str, Any]]:
    """Give a fine-tuned network its narrow network and its router."""
    transformers.set_seed(seed)
    model = routed(network, router_layer=settings["router_layer"])
    return model, trained(model, parts, seed=seed, state=state, learning_rate=settings["rate"])


def trained(
    model: SharcsForSequenceClassification, parts: Parts, *, seed: int, state: Path, **settings: Any
) -> dict[str, Any]:
    """Train what a wrapped reference has besides it, by the package; returns the record."""
    arguments = SharcsTrainingArguments(
        str(state),
        seed=seed,
        num_train_epochs=0,  # the full network is the reference
        per_device_train_batch_size=32,
        save_strategy="steps",
        save_steps=200,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
        **settings,
    )
    trainer = SharcsTrainer(
        model=model,
        args=arguments,
        train_dataset=as_dataset(parts.train),
        data_collator=collator(),
        processing_class=tokenizer(),
    )
    resumes = any(state.glob("**/checkpoint-*"))
    start = processor_seconds()
    trainer.train(resume_from_checkpoint=resumes or None)
    return {"train_seconds": processor_seconds() - start, "resumed": resumes, "sharcs": sharcs.__version__}


def answers_of(model: SharcsForSequenceClassification, reference: Network, rows: Rows) -> Answers:
    """Answer by both networks, with the router's logits and what continuing costs."""
    model.train(False)

    def run(inputs: dict[str, Any]) -> torch.Tensor:
        outputs = model(**inputs, widths="all")
        router = outputs.router_logits.T.unsqueeze(-1)  # [widths, batch, 1]
        return torch.cat([outputs.width_logits, router], dim=-1)

    values = over(rows, run)
    lengths = torch.from_numpy(rows.lengths)
    every = flops(model.cost_coefficients(), lengths).numpy()
    continuation = flops(model.continuation_coefficients().unsqueeze(0), lengths).numpy()[:, 0]
    signals = {"router": values[..., -1], "continuation": (continuation / reference.flops(rows.lengths))[None]}
    return Answers(values[..., :-1], every[:, :-1].T, {name: np.float32(v) for name, v in signals.items()})
