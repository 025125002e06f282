"""MiniLM written as a checkpoint of another architecture that computes the same hidden states.

    python benchmarks/ports.py roberta /tmp/minilm-roberta

For benchmarks and tests: no other pretrained weights are at hand, and these show that what holds for BERT holds
where layers are named, ordered and fed in other ways. What an architecture lacks is folded into what it has: the
first token type into the positions, of DistilBERT and MPNet; MPNet's relative position bias is zero. Positions are
shifted by as many rows as an architecture reserves. The pooler becomes the head's first projection.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from sharcs.data.named import minilm_path

BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
DISTILBERT_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm": "output_layer_norm",
}
MPNET_LAYER = BERT_LAYER | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}
# Names in a layer, where the layers are, positions that are reserved, whether there are token types.
ARCHITECTURES = {
    "roberta": (BERT_LAYER, "encoder.layer", 1, True),
    "distilbert": (DISTILBERT_LAYER, "transformer.layer", 0, False),
    "electra": (BERT_LAYER, "encoder.layer", 0, True),
    "mpnet": (MPNET_LAYER, "encoder.layer", 2, False),
}


def config_of(kind: str, bert: PreTrainedConfig) -> PreTrainedConfig:
    """Translate the sizes."""
    reserved = ARCHITECTURES[kind][2]
    common = {
        "vocab_size": bert.vocab_size,
        "hidden_size": bert.hidden_size,
        "num_attention_heads": bert.num_attention_heads,
        "num_hidden_layers": bert.num_hidden_layers,
        "max_position_embeddings": bert.max_position_embeddings + reserved,
        "layer_norm_eps": bert.layer_norm_eps,
        "pad_token_id": bert.pad_token_id,
    }
    if kind == "distilbert":
        return AutoConfig.for_model(kind, hidden_dim=bert.intermediate_size, activation="gelu", **common)
    more = {"embedding_size": bert.hidden_size} if kind == "electra" else {}
    if ARCHITECTURES[kind][3]:
        more["type_vocab_size"] = bert.type_vocab_size
    return AutoConfig.for_model(kind, intermediate_size=bert.intermediate_size, **common, **more)


def weights_of(kind: str, bert: dict[str, Tensor], layers: int, heads: int) -> dict[str, Tensor]:
    """Translate the weights."""
    names, place, reserved, has_types = ARCHITECTURES[kind]
    found = {}
    for index in range(layers):
        for role, name in names.items():
            for part in ("weight", "bias"):
                source = f"encoder.layer.{index}.{BERT_LAYER[role]}.{part}"
                found[f"{kind}.{place}.{index}.{name}.{part}"] = bert[source]
    embeddings = f"{kind}.embeddings"
    types, positions = bert["embeddings.token_type_embeddings.weight"], bert["embeddings.position_embeddings.weight"]
    if has_types:
        found[f"{embeddings}.token_type_embeddings.weight"] = types
    else:
        positions = positions + types[0]
    found[f"{embeddings}.position_embeddings.weight"] = torch.cat([positions[:reserved] * 0, positions])
    found[f"{embeddings}.word_embeddings.weight"] = bert["embeddings.word_embeddings.weight"]
    for part in ("weight", "bias"):
        found[f"{embeddings}.LayerNorm.{part}"] = bert[f"embeddings.LayerNorm.{part}"]
        head = "pre_classifier" if kind == "distilbert" else "classifier.dense"
        found[f"{head}.{part}"] = bert[f"pooler.dense.{part}"]
    if kind == "mpnet":
        found["mpnet.encoder.relative_attention_bias.weight"] = torch.zeros(32, heads)
    return {name: value.clone() for name, value in found.items()}


def port(kind: str, folder: Path) -> Path:
    """Write MiniLM as another architecture, with its tokenizer."""
    config = AutoConfig.from_pretrained(minilm_path())
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(Path(minilm_path()) / "model.safetensors")
    ported = weights_of(kind, weights, config.num_hidden_layers, config.num_attention_heads)
    save_file(ported, folder / "model.safetensors", metadata={"format": "pt"})
    config_of(kind, config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_path()).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=ARCHITECTURES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(port(arguments.kind, arguments.folder))
