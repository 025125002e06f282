"""The encoder that a training starts from: its tokenizer, its classes if it has some, and its routed form.

A job is a :class:`sharcs.jobs.train.TrainingJob`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageClassification

from sharcs.config import SharcsConfig
from sharcs.data.named import MINILM
from sharcs.data.tokens import most_tokens
from sharcs.errors import EncoderError, InputError, first_line
from sharcs.inference import folder
from sharcs.model.media import SharcsForImageClassification
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.spec import FIRST
from sharcs.tasks.base import problem_type_of
from sharcs.training.arguments import RECIPES
from sharcs_runtime.scores import REGRESSION

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from sharcs.data.texts import TextData
    from sharcs.model.base import RoutedModel


def load_model(job: Any, encoder_path: str, names: list[str], train: TextData) -> RoutedModel:
    """Wrap the encoder, for the classes of some rows."""
    routed: type[RoutedModel] = SharcsForImageClassification if job.images else SharcsForSequenceClassification
    try:
        return routed.from_encoder(
            encoder_path,
            widths=job.widths,
            front=job.front,
            pairs=train.pairs is not None,
            readout=job.readout or FIRST,
            router_layer=job.router_layer,
            weights=RECIPES[str(job.recipe)].weights,
            id2label=dict(enumerate(names)),
            problem_type=train.problem_type,
            use_safetensors=True,
        )
    except EncoderError as error:
        raise InputError(f"`model` {job.model}: {error}") from error
    except InputError:
        raise
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"`model` {job.model}: its weights can't be loaded ({first_line(error)}); it needs model.safetensors"
        ) from error
    except ValueError as error:
        raise InputError(
            f"`model` {job.model}: is no {routed.input_modalities} encoder ({first_line(error)}); choose another"
        ) from error
    except RuntimeError as error:
        raise InputError(
            f"`model` {job.model}: its weights don't fit its configuration or the {len(names)} classes of "
            f"{train.source} ({first_line(error)}); name an encoder without a head"
        ) from error


def classes_of_fine_tuned(encoder_path: str, names: list[str], job: Any, problem_type: str, source: str) -> list[str]:
    """Look up the classes of a model that is fine-tuned already; it has to have those of the data."""
    try:
        config = AutoConfig.from_pretrained(encoder_path)
    except (OSError, ValueError, KeyError):
        return names  # what is wrong with it is found out where its tokenizer is loaded
    if not any(
        name.endswith(("ForSequenceClassification", "ForImageClassification")) for name in config.architectures or ()
    ):
        raise InputError(f"`epochs` 0: {job.model} is not fine-tuned, it has no head; give at least 1")
    known_type = problem_type_of(config)
    if known_type != problem_type:
        raise InputError(
            f"`epochs` 0: {job.model} has problem_type {known_type}, and {source} has labels for {problem_type}; "
            "train it with `epochs` 1 or more"
        )
    if problem_type == REGRESSION:
        return names
    known = [str(name) for _, name in sorted((config.id2label or {}).items())]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(
            f"`epochs` 0: {job.model} has the classes {', '.join(map(repr, known[:10]))}, and {source} has "
            f"{unknown[0]!r}; correct the labels, or train the model with `epochs` 1 or more"
        )
    return known


def load_processor(encoder_path: str, job: Any) -> tuple[Any, PreTrainedConfig]:
    """Load the encoder's tokenizer, or its image processor where the job is on images, and its configuration.

    A tokenizer's length is capped at what the encoder has positions for. Settings that don't fit the encoder are
    refused before anything is written.
    """
    load = folder.load_image_processor if job.images else folder.load_tokenizer
    try:
        config = AutoConfig.from_pretrained(encoder_path)
        processor = None if not job.images and has_pixels(config) else load(encoder_path)
    except (OSError, ValueError, KeyError) as error:
        what = "image encoder with a preprocessor_config.json" if job.images else "encoder"
        raise InputError(
            f"`model` {job.model}: no {what} can be loaded from there ({first_line(error)}); give a local "
            f"model directory, a name on the hub{'' if job.images else f', or {MINILM}'}"
        ) from error
    if processor is None:
        raise InputError(
            f"`model` {job.model}: is an encoder of images; name the column with their paths by `image_column`, "
            "or give `data` as a folder with a folder for each class"
        )
    if not isinstance(config, SharcsConfig):
        SharcsConfig(encoder=config, widths=list(job.widths), router_layer=job.router_layer)
    # What is routed already is refused where it is loaded.
    encoder = config.encoder if isinstance(config, SharcsConfig) else config
    if job.images:
        return processor, encoder  # type: ignore[return-value]
    embeddings = getattr(config, "vocab_size", None)
    if embeddings is not None and len(processor) > embeddings:
        raise InputError(
            f"`model` {job.model}: its tokenizer has {len(processor)} tokens, but it has {embeddings} embeddings; "
            "save it with its own tokenizer"
        )
    processor.model_max_length = min(job.max_length, most_tokens(processor, encoder))
    return processor, encoder  # type: ignore[return-value]


def has_pixels(config: PreTrainedConfig) -> bool:
    """Tell encoders of images from those of texts."""
    of_images = type(config) in AutoModelForImageClassification._model_mapping
    return of_images and not isinstance(config, SharcsConfig)  # which every routed model has
