"""Tiny random encoders of every supported family, and truths about their sub-networks that share no code with src.

To add a family, add a line to ``ENCODERS``.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from sharcs import SharcsForSequenceClassification

WIDTHS = [0.25, 0.5, 1.0]
ROUTER_LAYER = 1
NUM_LABELS = 3
FIRST_WORD = 5  # below it are the special tokens, padding among them
VOCABULARY = 40


@dataclass(frozen=True)
class Size:
    """What narrowing scales, and the depth."""

    hidden: int = 32
    heads: int = 4
    feed_forward: int = 48
    layers: int = 3

    def narrow(self, width: float) -> Size:
        """Scale everything but the depth, by whole heads."""
        heads = round(self.heads * width)
        return replace(
            self,
            hidden=self.hidden * heads // self.heads,
            heads=heads,
            feed_forward=self.feed_forward * heads // self.heads,
        )


def _config(model_type, feed_forward="intermediate_size", **extra):
    def build(size: Size = Size()):
        return AutoConfig.for_model(
            model_type,
            hidden_size=size.hidden,
            num_attention_heads=size.heads,
            num_hidden_layers=size.layers,
            vocab_size=VOCABULARY,
            max_position_embeddings=40,
            num_labels=NUM_LABELS,
            **{feed_forward: size.feed_forward},
            **extra,
        )

    return build


ENCODERS = {
    "bert": _config("bert"),
    "roberta": _config("roberta", pad_token_id=1),
    "xlm-roberta": _config("xlm-roberta", pad_token_id=1),
    "camembert": _config("camembert", pad_token_id=1),
    "distilbert": _config("distilbert", feed_forward="hidden_dim"),
    "electra": _config("electra", embedding_size=20),
    "mpnet": _config("mpnet", pad_token_id=1),
    "data2vec-text": _config("data2vec-text", pad_token_id=1),
    "roformer": _config("roformer", embedding_size=20),
}


def attention_implementations(family):
    """List what the family's plain classifier can run."""
    plain_class = AutoModelForSequenceClassification._model_mapping[type(ENCODERS[family]())]
    return ["eager", "sdpa"] if plain_class._supports_sdpa else ["eager"]


def randomise(module, seed):
    """Give every parameter its own random values: fresh biases and norms are zeros and ones, which hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            values = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values + 1 if is_scale else values)


def save_plain(family, directory, seed=0):
    """Save a plain classifier with random weights and return its directory."""
    model = AutoModelForSequenceClassification.from_config(ENCODERS[family]())
    randomise(model, seed)
    model.save_pretrained(directory)
    return str(directory)


def load_plain(path, **kwargs):
    """Load the plain Hugging Face classifier."""
    return AutoModelForSequenceClassification.from_pretrained(path, **kwargs).eval()


def load_routed(path, widths=WIDTHS, seed=1, **kwargs):
    """Wrap the classifier, with random values in all that wrapping adds: fresh norms agree between the widths."""
    model = SharcsForSequenceClassification.from_encoder(path, widths=widths, router_layer=ROUTER_LAYER, **kwargs)
    for offset, added in enumerate((model.tail.router, model.tail.entry_norms, model.tail.norms)):
        randomise(added, seed + offset)
    return model.eval()


def make_batch(config, lengths, columns=None, seed=0):
    """Build rows of random words, padded to the longest, or to that many columns.

    A row's words depend on the seed and on its position in ``lengths`` only.
    """
    columns = columns or max(lengths)
    ids = torch.full((len(lengths), columns), config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(1000 * seed + row)
        ids[row, :length] = torch.randint(FIRST_WORD, VOCABULARY, (length,), generator=generator)
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def row_of(batch, row):
    """Cut one input out of a batch, without its padding."""
    length = int(batch["attention_mask"][row].sum())
    return {name: value[row : row + 1, :length] for name, value in batch.items()}


def plain_layers(model):
    """Find a plain model's layers by its parameters' names."""
    name = next(match[1] for key in model.state_dict() if (match := re.match(r"(.*?\.layer)\.\d+\.", key)))
    return model.get_submodule(name)


def routed_key(key, k=ROUTER_LAYER):
    """Translate a plain parameter's name into the routed model's."""
    match = re.fullmatch(r"(.*?\.layer)\.(\d+)\.(.*)", key)
    if match is None or int(match[2]) < k:
        return f"encoder.{key}"
    return f"encoder.{match[1]}.{k}.layers.{int(match[2]) - k}.{match[3]}"


def corner(tensor, shape):
    """Cut the leading corner, one dimension at a time."""
    for dimension, size in enumerate(shape):
        tensor = tensor.narrow(dimension, 0, size)
    return tensor.detach().clone()


class SlicedCopy:
    """The sub-network of one width as a plain Hugging Face model of the narrow size, with weights cut out once.

    Layers 1..k, embeddings and head are a copy of the plain model; layers k+1..L are a separate plain model whose
    configuration comes from ``ENCODERS``, not from narrowing. Private norms are copied from the routed model.
    """

    def __init__(self, family, path, routed, width_index, **kwargs):
        """Cut the weights; keyword arguments go to ``from_pretrained``."""
        self.width_index = width_index
        self.plain = load_plain(path, **kwargs).to(routed.dtype)
        size = Size()
        narrow_size = size.narrow(WIDTHS[width_index])
        config = ENCODERS[family](replace(narrow_size, layers=size.layers - ROUTER_LAYER))
        if hasattr(config, "embedding_size"):
            config.embedding_size = config.hidden_size  # what comes in is narrow already
        self.dense = AutoModelForSequenceClassification.from_config(config, **kwargs).eval().to(routed.dtype)
        self.entry = copy.deepcopy(routed.tail.entry_norms[width_index])
        self.hidden, self.padding = narrow_size.hidden, size.hidden - narrow_size.hidden
        with torch.no_grad():
            for key, parameter in self.shared().items():
                parameter.copy_(corner(self.plain.get_parameter(key), parameter.shape))
                parameter.requires_grad_(True)  # RoFormer's table of sines gets a gradient, but not when it is new
            for norm, private in self.norm_pairs(routed):
                norm.load_state_dict(private.state_dict())

        layers = plain_layers(self.plain)
        self.dense.base_model.embeddings.forward = lambda *args, **kwargs: self.entry(self.at_router)
        layers[ROUTER_LAYER - 1].register_forward_hook(self._keep)
        layers[-1].register_forward_hook(self._replace)

    def norm_pairs(self, routed):
        """Pair the copy's norms with the routed model's private ones."""
        for position, layer in enumerate(plain_layers(self.dense)):
            norms = [module for module in layer.modules() if isinstance(module, nn.LayerNorm)]
            yield from zip(norms, routed.tail.norms[self.width_index][position], strict=True)

    def shared(self):
        """Map the plain model's name of each weight that is cut to the copy's own parameter."""
        found = {}
        norms = {id(p) for m in self.dense.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
        base = self.dense.base_model_prefix
        for key, parameter in self.dense.named_parameters():
            if not key.startswith(f"{base}.") or "embeddings" in key or "pooler" in key or id(parameter) in norms:
                continue
            match = re.fullmatch(r"(.*?\.layer)\.(\d+)\.(.*)", key)
            found[f"{match[1]}.{int(match[2]) + ROUTER_LAYER}.{match[3]}" if match else key] = parameter
        return found

    def __call__(self, **batch):
        """Run it as the plain model would be run."""
        self.inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
        return self.plain(**batch)

    def gradients(self):
        """Map the routed model's parameter names to the gradients that they should have; the rest has none."""
        expected = {}
        for key, parameter in self.plain.named_parameters():
            if parameter.grad is not None:
                expected[routed_key(key)] = parameter.grad.clone()
        for key, parameter in self.shared().items():
            shape = self.plain.get_parameter(key).shape
            behind = [size - cut for size, cut in zip(shape, parameter.shape, strict=True)]
            full = F.pad(parameter.grad, [pad for size in reversed(behind) for pad in (0, size)])
            name = routed_key(key)
            expected[name] = expected[name] + full if name in expected else full
        return expected

    def _keep(self, module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        self.at_router = hidden[..., : self.hidden]

    def _replace(self, module, args, output):
        padded = F.pad(self.dense.base_model(**self.inputs).last_hidden_state, (0, self.padding))
        return (padded, *output[1:]) if isinstance(output, tuple) else padded
