"""The encoder that a training starts from: its tokenizer, its classes if it has some, and its routed form.

A job is a :class:`sharcs.jobs.train.TrainingJob`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from transformers import AutoConfig

from sharcs.config import SharcsConfig
from sharcs.data.named import MINILM
from sharcs.data.tokens import most_tokens
from sharcs.errors import EncoderError, InputError, first_line
from sharcs.inference import folder
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.spec import FIRST
from sharcs.tasks.base import problem_type_of
from sharcs.training.arguments import RECIPES
from sharcs_runtime.scores import REGRESSION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sharcs.data.texts import TextData


def load_model(job: Any, encoder_path: str, names: list[str], train: TextData) -> SharcsForSequenceClassification:
    """Wrap the encoder, for the classes of some rows."""
    try:
        return SharcsForSequenceClassification.from_encoder(
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
        raise InputError(f"`model` {job.model}: is no text encoder ({first_line(error)}); choose another") from error
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
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
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


def load_tokenizer(encoder_path: str, job: Any) -> tuple[PreTrainedTokenizerBase, int, int | None]:
    """Load the tokenizer, cap the length at what the encoder has positions for, and look up the encoder's depth."""
    try:
        config = AutoConfig.from_pretrained(encoder_path)
        tokenizer = folder.load_tokenizer(encoder_path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"`model` {job.model}: no encoder can be loaded from there ({first_line(error)}); give a local "
            f"model directory, a name on the hub, or {MINILM}"
        ) from error
    if not isinstance(config, SharcsConfig):
        # Refuse settings that don't fit the encoder before anything is written.
        SharcsConfig(encoder=config, widths=list(job.widths), router_layer=job.router_layer)
    embeddings = getattr(config, "vocab_size", None)
    if embeddings is not None and len(tokenizer) > embeddings:
        raise InputError(
            f"`model` {job.model}: its tokenizer has {len(tokenizer)} tokens, but it has {embeddings} embeddings; "
            "save it with its own tokenizer"
        )
    # What is routed already is refused where it is loaded.
    encoder = config.encoder if isinstance(config, SharcsConfig) else config
    max_length = min(job.max_length, most_tokens(tokenizer, encoder))
    tokenizer.model_max_length = max_length
    return tokenizer, max_length, getattr(config, "num_hidden_layers", None)
