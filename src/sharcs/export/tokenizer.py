"""The tokenizer of an export, as the tokenizers library reads it, and as transformers does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from sharcs.errors import InputError
from sharcs.files import write_json
from sharcs_runtime.bundle import TOKENIZER_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

SETTINGS_FILE = "tokenizer_config.json"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Take the tokenizer that runs without Python.

    Raises:
        InputError: If there is none.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError("the tokenizer runs in Python only; export needs one of the tokenizers library")
    return backend


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, most: int) -> None:
    """Write the tokenizer's file, with truncation to that many tokens and without padding.

    Raises:
        InputError: If it runs in Python only.
    """
    own = Tokenizer.from_str(backend_of(tokenizer).to_str())
    own.no_padding()
    own.enable_truncation(most, strategy="longest_first", direction=tokenizer.truncation_side)
    own.save(str(folder / TOKENIZER_FILE))


def write_settings(tokenizer: PreTrainedTokenizerBase, inputs: list[str], folder: Path, most: int) -> None:
    """Write what transformers reads beside the tokenizer's file.

    Its own way of saving names classes that earlier versions don't know, such as the one that optimum works with. The
    class that is named here runs the file as it is, in every version.

    Args:
        tokenizer: The tokenizer.
        inputs: What the network reads of it.
        folder: Where it goes.
        most: How many tokens are kept of a text.
    """
    special = {name: getattr(tokenizer, name, None) for name in SPECIAL_TOKENS}
    content: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": most,
        "model_input_names": inputs,
        "padding_side": "right",  # as a text is padded here, whatever the tokenizer would do
        "truncation_side": tokenizer.truncation_side,
        "pad_token_type_id": tokenizer.pad_token_type_id,
        "clean_up_tokenization_spaces": False,
        **{name: str(token) for name, token in special.items() if token is not None},
    }
    write_json(content, folder / SETTINGS_FILE)
