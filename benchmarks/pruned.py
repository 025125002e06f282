"""BERT with fewer heads or neurons than its hidden size asks for: what structured pruning leaves of a network.

Hugging Face's own BERT can't be told to have heads of another size than hidden size over heads, and so can't hold it.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
from transformers.models.bert.modeling_bert import BertLayer


class PrunedBertConfig(BertConfig):
    """BERT's, with the size of a head."""

    model_type: ClassVar[str] = "pruned-bert"

    head_dim: int = 32


class PrunedBertLayer(BertLayer):
    """BERT's, with an attention of ``num_attention_heads · head_dim``, whatever the hidden size."""

    def __init__(self, config: PrunedBertConfig, layer_idx: int | None = None) -> None:
        super().__init__(_with_one_head(config), layer_idx=layer_idx)
        attention, inner = self.attention.self, config.num_attention_heads * config.head_dim
        attention.config, attention.num_attention_heads = config, config.num_attention_heads
        for name in ("query", "key", "value"):
            setattr(attention, name, nn.Linear(config.hidden_size, inner))
        attention.attention_head_size, attention.all_head_size = config.head_dim, inner
        attention.scaling = config.head_dim**-0.5
        self.attention.output.dense = nn.Linear(inner, config.hidden_size)


class PrunedBert(BertForSequenceClassification):
    """BERT with a sequence classification head, of pruned layers."""

    config_class = PrunedBertConfig

    def __init__(self, config: PrunedBertConfig) -> None:
        heads, config.num_attention_heads = config.num_attention_heads, 1
        super().__init__(config)
        config.num_attention_heads = heads
        self.bert.encoder.layer = nn.ModuleList(PrunedBertLayer(config, i) for i in range(config.num_hidden_layers))
        self.post_init()


def _with_one_head(config: PrunedBertConfig) -> PrunedBertConfig:
    """Let BERT's own code build what is replaced, whatever the number of heads."""
    config = copy.copy(config)
    config.num_attention_heads = 1
    return config


AutoConfig.register("pruned-bert", PrunedBertConfig)
AutoModelForSequenceClassification.register(PrunedBertConfig, PrunedBert)


@torch.no_grad()
def first_units(model: Any, heads: int, neurons: int) -> PrunedBert:
    """Keep the first heads and neurons of every layer of a BERT whose layers are sorted by importance."""
    full = model.config
    size = full.hidden_size // full.num_attention_heads
    settings = full.to_dict() | {"num_attention_heads": heads, "intermediate_size": neurons, "head_dim": size}
    settings.pop("model_type")
    pruned = PrunedBert(PrunedBertConfig(**settings)).train(False)
    values = model.state_dict()
    for name, tensor in pruned.state_dict().items():
        tensor.copy_(values[name][tuple(slice(0, count) for count in tensor.shape)])
    return pruned
