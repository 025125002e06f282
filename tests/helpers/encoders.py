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
    """Build configurations of one architecture; what depends on the size is given as a function of it."""

    def build(size: Size = Size()):
        settings = {
            "hidden_size": size.hidden,
            "num_attention_heads": size.heads,
            "num_hidden_layers": size.layers,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 40,
            "num_labels": NUM_LABELS,
            feed_forward: size.feed_forward,
        }
        settings |= {name: value(size) if callable(value) else value for name, value in extra.items()}
        return AutoConfig.for_model(model_type, **settings)

    return build


DEBERTA = {
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "pooler_hidden_size": lambda size: size.hidden,
}
ENCODERS = {
    "bert": _config("bert"),
    "roberta": _config("roberta", pad_token_id=1),
    "xlm-roberta": _config("xlm-roberta", pad_token_id=1),
    "camembert": _config("camembert", pad_token_id=1),
    "distilbert": _config("distilbert", feed_forward="hidden_dim"),
    "electra": _config("electra", embedding_size=20),
    "megatron-bert": _config("megatron-bert"),
    "mpnet": _config("mpnet", pad_token_id=1),
    "data2vec-text": _config("data2vec-text", pad_token_id=1),
    "roformer": _config("roformer", embedding_size=20),
    "modernbert": _config("modernbert", pad_token_id=0, local_attention=4, global_attn_every_n_layers=2),
    "deberta-v2": _config("deberta-v2", **DEBERTA),
    "deberta-v2-conv": _config("deberta-v2", **DEBERTA | {"share_att_key": False, "conv_kernel_size": 3}),
    "albert": _config("albert", embedding_size=20),
    "nomic": _config("nomic_bert"),
    "eurobert": _config(
        # Two heads share a key and a value, and all heads together don't have the hidden size.
        "eurobert",
        pad_token_id=0,
        num_attention_heads=lambda size: 2 * size.heads,
        num_key_value_heads=lambda size: size.heads,
        head_dim=2,
    ),
    "esm": _config("esm", pad_token_id=1, mask_token_id=4, position_embedding_type="rotary", token_dropout=True),
}
# Whose layers are those of another one in the list: left out of tests that take seconds a family, and in CI of most.
SIBLINGS = ("xlm-roberta", "camembert", "data2vec-text", "electra", "megatron-bert", "deberta-v2")
# Have layers of their own and few users: in CI they are in what is there for every family alone.
RARE = ("roformer", "nomic")
DISTINCT = [name for name in ENCODERS if name not in SIBLINGS]
# Where the output of the last layer goes through a norm, and linear layers that hold several behind each other.
FINAL_NORMS = {
    "megatron-bert": "encoder.ln",
    "modernbert": "final_norm",
    "eurobert": "norm",
    "esm": "encoder.emb_layer_norm_after",
}
FUSED = {"Wqkv": 3, "Wi": 2}
# Their layers need more than hidden states: positions, of which the encoder has the table.
HANDED_MORE = ("modernbert", "deberta-v2", "deberta-v2-conv", "nomic", "eurobert", "esm")
# They compute something in single precision whatever the weights are in, which finite differences don't forgive.
SINGLE_PRECISION = ("modernbert", "deberta-v2", "deberta-v2-conv", "eurobert", "nomic", "esm")


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


def save_plain(family, directory, seed=0, auto_class=AutoModelForSequenceClassification, configs=ENCODERS):
    """Save a plain classifier with random weights and return its directory."""
    model = auto_class.from_config(configs[family]())
    randomise(model, seed)
    model.save_pretrained(directory)
    return str(directory)


def load_plain(path, auto_class=AutoModelForSequenceClassification, **kwargs):
    """Load the plain Hugging Face classifier."""
    return auto_class.from_pretrained(path, **kwargs).eval()


def load_routed(
    path, widths=WIDTHS, seed=1, routed_class=SharcsForSequenceClassification, weights="shared", **kwargs
):
    """Wrap the classifier, with random values in all that wrapping adds: fresh norms agree between the widths."""
    model = routed_class.from_encoder(path, widths=widths, router_layer=ROUTER_LAYER, weights=weights, **kwargs)
    narrow = model.tail.narrow
    parts = [[getattr(part, name) for part in narrow] for name in ("entry_norm", "norms", "exit_norm")]
    for offset, modules in enumerate((model.router, *map(nn.ModuleList, parts))):
        randomise(modules, seed + offset)
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


# Linear layers whose columns belong to heads, and to feed-forward neurons, by their names inside a layer.
FROM_HEADS = re.compile(r"(attention\.output\.dense|out_lin|attn\.o|attn\.Wo|o_proj|out_proj|attention\.dense)$")
FROM_NEURONS = re.compile(
    r"(^output\.dense|lin2|mlp\.Wo|down_proj|fc2|ffn_output|feed_forward\.output_dense|weights_out)$"
)


def leading_on(layer):
    """Find the weights whose columns lead on from heads, and from neurons: zeros there switch one off."""
    linears = [(name, module.weight) for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)]
    (heads,), (neurons,) = ([w for name, w in linears if of.search(name)] for of in (FROM_HEADS, FROM_NEURONS))
    return heads, neurons


def row_of(batch, row):
    """Cut one input out of a batch, without its padding."""
    length = int(batch["attention_mask"][row].sum())
    return {name: value[row : row + 1, :length] for name, value in batch.items()}


def plain_layers(model):
    """List what a plain model runs as its layers, found by its parameters' names; ALBERT runs one several times."""
    pattern = r"(.*?\.(?:layers?|albert_layer_groups))\.\d+\."
    name = next(match[1] for key in model.state_dict() if (match := re.match(pattern, key)))
    modules = list(model.get_submodule(name))
    return modules * (Size().layers // len(modules))


def is_norm(module):
    """Tell norms from other modules; some layers are called after the norms that they have inside."""
    return "Norm" in type(module).__name__ and not list(module.children())


def routed_key(key):
    """Translate a plain parameter's name into the routed model's."""
    return f"encoder.{key}"


def corner(tensor, shape):
    """Cut the leading corner, one dimension at a time."""
    for dimension, size in enumerate(shape):
        tensor = tensor.narrow(dimension, 0, size)
    return tensor.detach().clone()


def fused_in(name):
    """Tell how many linear layers a weight holds behind each other."""
    return next((count for part, count in FUSED.items() if f".{part}." in name), 1)


class SlicedCopy:
    """The sub-network of one width as a plain Hugging Face model of the narrow size, with weights cut out once.

    Layers 1..k, embeddings and head are a copy of the plain model; layers k+1..L are those of a separate plain model
    whose configuration comes from ``ENCODERS``, not from narrowing, and whose layer k is overwritten with what the
    plain one gives. Private norms are copied from the routed model.
    """

    auto_class, configs, final_norms = AutoModelForSequenceClassification, ENCODERS, FINAL_NORMS
    input_names = ("input_ids", "attention_mask")
    elsewhere = "embedding|embed_tokens|pooler|contact_head|conv"  # what isn't cut, beside norms and layers 1..k

    @staticmethod
    def body(model):
        """Find what is below the task head."""
        return model.base_model

    def __init__(self, family, path, routed, width_index, **kwargs):
        """Cut the weights; keyword arguments go to ``from_pretrained``."""
        self.width_index = width_index
        self.plain = load_plain(path, self.auto_class, **kwargs).to(routed.dtype)
        narrow_size = Size().narrow(WIDTHS[width_index])
        config = self.configs[family](narrow_size)
        if family == "albert":
            config.num_hidden_groups = narrow_size.layers  # each position has norms of its own
        self.dense = self.auto_class.from_config(config, **kwargs).eval().to(routed.dtype)
        self.entry = copy.deepcopy(routed.tail.narrow[width_index].entry_norm)
        self.hidden, self.padding = narrow_size.hidden, Size().hidden - narrow_size.hidden
        self.final_norm = self.final_norms.get(family)
        with torch.no_grad():
            for key, parameter in self.shared():
                pieces = self.plain.get_parameter(key).chunk(fused_in(key))
                shape = (len(parameter) // len(pieces), *parameter.shape[1:])
                parameter.copy_(torch.cat([corner(piece, shape) for piece in pieces]))
                parameter.requires_grad_(True)  # RoFormer's table of sines gets a gradient, but not when it is new
            for norm, private in self.norm_pairs(routed):
                norm.load_state_dict(private.state_dict())
        if family.startswith("deberta"):
            full = self.plain.base_model.encoder.get_rel_embedding
            self.dense.base_model.encoder.get_rel_embedding = lambda: full()[..., : self.hidden]

        layers = plain_layers(self.plain)
        for model, hook in ((self.plain, self._keep), (self.dense, self._enter)):
            if family == "deberta-v2-conv":
                model.base_model.encoder.conv.register_forward_hook(hook)  # follows layer 1
            else:
                self.hook(plain_layers(model), ROUTER_LAYER - 1, hook)
        if self.final_norm is None:
            self.hook(layers, len(layers) - 1, self._replace)
        else:
            self.body(self.plain).get_submodule(self.final_norm).register_forward_hook(self._replace)

    @staticmethod
    def hook(layers, position, hook):
        """Hook one position; a layer that runs at several is hooked at the calls that count."""
        calls = iter(range(10**9))
        alike = len(layers) if layers[0] is layers[-1] else 1

        def counted(module, args, output):
            return hook(module, args, output) if next(calls) % alike == position % alike else None

        layers[position].register_forward_hook(counted)

    def norm_pairs(self, routed):
        """Pair the copy's norms with the routed model's private ones."""
        tail = routed.tail
        for layer, own in zip(
            plain_layers(self.dense)[ROUTER_LAYER:], tail.narrow[self.width_index].norms, strict=True
        ):
            norms = [module for module in layer.modules() if is_norm(module)]
            yield from zip(norms, own, strict=True)
        if self.final_norm is not None:
            yield self.body(self.dense).get_submodule(self.final_norm), tail.narrow[self.width_index].exit_norm

    def shared(self):
        """Pair the plain model's name of each weight that is cut with the copy's own parameter."""
        found = []
        norms = {id(p) for m in self.dense.modules() if is_norm(m) for p in m.parameters()}
        base = next(name for name, module in self.dense.named_modules() if module is self.body(self.dense))
        elsewhere = re.compile(self.elsewhere)
        for key, parameter in self.dense.named_parameters():
            if not key.startswith(f"{base}.") or elsewhere.search(key) or id(parameter) in norms:
                continue
            match = re.fullmatch(r"(.*?\.(?:layers?|albert_layer_groups))\.(\d+)\.(.*)", key)
            if match is not None and int(match[2]) < ROUTER_LAYER:
                continue
            if match is not None and "albert" in match[1]:
                key = f"{match[1]}.0.{match[3]}"
            found.append((key, parameter))
        return found

    def __call__(self, **batch):
        """Run it as the plain model would be run."""
        self.inputs = {name: batch[name] for name in self.input_names if name in batch}
        return self.plain(**batch)

    def gradients(self):
        """Map the routed model's parameter names to the gradients that they should have; the rest has none."""
        expected = {}
        for key, parameter in self.plain.named_parameters():
            if parameter.grad is not None:
                expected[routed_key(key)] = parameter.grad.clone()
        for key, parameter in self.shared():
            size, fused = self.plain.get_parameter(key).shape, fused_in(key)
            pieces = []
            for piece in parameter.grad.chunk(fused):
                behind = [full - cut for full, cut in zip((size[0] // fused, *size[1:]), piece.shape, strict=True)]
                pieces.append(F.pad(piece, [pad for count in reversed(behind) for pad in (0, count)]))
            full, name = torch.cat(pieces), routed_key(key)
            expected[name] = expected[name] + full if name in expected else full
        return expected

    def _keep(self, module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        self.at_router = hidden[..., : self.hidden]

    def _enter(self, module, args, output):
        hidden = self.entry(self.at_router)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _replace(self, module, args, output):
        padded = F.pad(self.body(self.dense)(**self.inputs).last_hidden_state, (0, self.padding))
        return (padded, *output[1:]) if isinstance(output, tuple) else padded
