"""Tiny random encoders of images and of waves, in the style of ``encoders``.

To add an architecture, add a line to ``MEDIA``; where its last layer's output goes through a norm, one to
``FINAL_NORMS``.
"""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForImageClassification

from helpers import encoders
from helpers.encoders import NUM_LABELS, Size, SlicedCopy
from sharcs import SharcsForAudioClassification, SharcsForImageClassification

FULL_SIZE = Size()
SIDE, PATCH, CHANNELS = 8, 2, 3
KERNELS, STRIDES = (5, 3, 2), (3, 2, 1)  # of the convolutions over samples


def _settings(size):
    return {
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "intermediate_size": size.feed_forward,
    }


def _image(model_type, **extra):
    """Build configurations of an encoder of images; those of CLIP's kind have one within another."""

    def build(size=FULL_SIZE):
        vision = {**_settings(size), "image_size": SIDE, "patch_size": PATCH, "num_channels": CHANNELS, **extra}
        if model_type in ("clip", "siglip"):
            vision = {"vision_config": vision, "text_config": {"vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2}}
        if model_type == "dinov2":
            del vision["intermediate_size"]
        config = AutoConfig.for_model(model_type, **vision, num_labels=NUM_LABELS)
        config.architectures = []  # of several classes it is the first
        return config

    return build


def _wave(model_type, **extra):
    """Build configurations of an encoder of waves."""

    def build(size=FULL_SIZE):
        settings = _settings(size) | {
            "conv_dim": (6,) * len(KERNELS),
            "conv_kernel": KERNELS,
            "conv_stride": STRIDES,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "classifier_proj_size": 10,
            "mask_time_length": 2,
        }
        return AutoConfig.for_model(model_type, **settings | extra, num_labels=NUM_LABELS)

    return build


STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
MEDIA = {
    "vit": _image("vit"),
    "deit": _image("deit"),
    "dinov2": _image("dinov2"),
    "dinov2-swiglu": _image("dinov2", use_swiglu_ffn=True),
    "clip": _image("clip"),
    "siglip": _image("siglip"),
    "siglip-headless": _image("siglip", vision_use_head=False),
    "wav2vec2": _wave("wav2vec2"),
    "wav2vec2-stable": _wave("wav2vec2", **STABLE),
    "hubert": _wave("hubert", feat_extract_norm="layer", num_conv_pos_embeddings=3),
    "hubert-stable": _wave("hubert", **STABLE),
    "hubert-batch-norm": _wave("hubert", conv_pos_batch_norm=True, feat_proj_layer_norm=False),
}
# Whose layers are those of another one in the list; see encoders.SIBLINGS.
SIBLINGS = ("deit", "clip", "siglip-headless", "hubert-stable", "hubert-batch-norm")
FINAL_NORMS = {
    "vit": "layernorm",
    "deit": "layernorm",
    "dinov2": "layernorm",
    "dinov2-swiglu": "layernorm",
    "siglip": "post_layernorm",
    "siglip-headless": "post_layernorm",
    "wav2vec2-stable": "encoder.layer_norm",
    "hubert-stable": "encoder.layer_norm",
}
# Their padding is heard, by a norm over all samples or by a shift of zeros: batches have one length and no mask.
EQUAL_LENGTHS = ("wav2vec2", "hubert-batch-norm")


def is_image(kind):
    """Tell images from waves."""
    return hasattr(MEDIA[kind](), "patch_size") or hasattr(MEDIA[kind](), "vision_config")


def auto_class(kind):
    """Name what loads the plain classifier."""
    return AutoModelForImageClassification if is_image(kind) else AutoModelForAudioClassification


def routed_class(kind):
    """Name the routed one."""
    return SharcsForImageClassification if is_image(kind) else SharcsForAudioClassification


def save_plain(kind, directory, seed=0):
    """Save a plain classifier with random weights and return its directory."""
    return encoders.save_plain(kind, directory, seed, auto_class(kind), MEDIA)


def load_plain(kind, path, **kwargs):
    """Load the plain Hugging Face classifier."""
    return encoders.load_plain(path, auto_class(kind), **kwargs)


def load_routed(kind, path, **kwargs):
    """Wrap the classifier, with random values in all that wrapping adds."""
    return encoders.load_routed(path, routed_class=routed_class(kind), **kwargs)


def frames(samples):
    """Count the frames that the convolutions make of some samples."""
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        samples = len(range(0, samples - kernel + 1, stride))
    return samples


def lengths(kind):
    """Lengths of the inputs of a batch of four; images have none."""
    return [40, 40, 40, 40] if is_image(kind) or kind in EQUAL_LENGTHS else [31, 60, 17, 45]


def make_batch(kind, samples=None, seed=0, columns=None, side=SIDE):
    """Build noise: an input for each number of samples, which images don't heed."""
    samples = samples or lengths(kind)
    generators = [torch.Generator().manual_seed(1000 * seed + row) for row in range(len(samples))]
    if is_image(kind):
        return {"pixel_values": torch.stack([torch.randn(CHANNELS, side, side, generator=g) for g in generators])}
    columns = columns or max(samples)
    values = torch.zeros(len(samples), columns)
    for row, (length, generator) in enumerate(zip(samples, generators, strict=True)):
        values[row, :length] = torch.randn(length, generator=generator)
    if kind in EQUAL_LENGTHS:
        return {"input_values": values}
    return {"input_values": values, "attention_mask": (torch.arange(columns) < torch.tensor(samples)[:, None]).long()}


def row_of(batch, row):
    """Cut one input out of a batch, without its padding."""
    if "attention_mask" not in batch:
        return {name: value[row : row + 1] for name, value in batch.items()}
    return encoders.row_of(batch, row)


class MediaCopy(SlicedCopy):
    """The sub-network of one width as a plain narrow model; see :class:`encoders.SlicedCopy`."""

    configs, final_norms = MEDIA, FINAL_NORMS
    input_names = ("pixel_values", "input_values", "attention_mask")
    elsewhere = r"embedding|feature_|conv|\.head\.|masked_spec"

    def __init__(self, kind, *args, **kwargs):
        """Choose the Auto class."""
        self.auto_class = auto_class(kind)
        super().__init__(kind, *args, **kwargs)

    @staticmethod
    def body(model):
        """Find what is below the task head."""
        return model.vision_model if hasattr(model, "vision_model") else model.base_model
