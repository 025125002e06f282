"""Graphs for OpenVINO: which of them, and in int8 with activations' scales that were read off texts."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.errors import InputError, MissingPackageError
from sharcs.export.int8 import classifiers_of
from sharcs.export.onnx import quiet
from sharcs.inference.engine import tokens_of
from sharcs.spec import LEXICAL, RECURRENT
from sharcs_runtime.sessions import EXTRAS, ONNX_RUNTIME, OPENVINO, RUNTIMES, OnnxSession
from sharcs_runtime.tokens import checked_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from sharcs.spec import SubnetworkSpec
    from sharcs_runtime.tokens import Text

    Feed = Mapping[str, NDArray[Any]]

SAMPLES = 300  # texts that scales are read off; more move them little
# Their tables and loops run faster on ONNX Runtime, and OpenVINO has no whole numbers of 64 bits, which hashes need.
SMALL = (LEXICAL, RECURRENT)


def check_runtime(runtime: str, *, int8: bool, int8_embeddings: bool, texts: Sequence[Text] | None) -> None:
    """Refuse what doesn't go together, before the work; the arguments are those of ``export_model``.

    Raises:
        InputError: If it doesn't, or a package is missing.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"`runtime` {runtime}: has to be {' or '.join(RUNTIMES)}")
    if texts is not None and not (int8 and runtime == OPENVINO):
        raise InputError(f"`texts`: are for `int8` with `runtime` {OPENVINO}; leave them out")
    if runtime == ONNX_RUNTIME:
        return
    if int8_embeddings:
        raise InputError("`int8_embeddings`: OpenVINO's int8 has its tables in it by itself; leave it out")
    if int8 and not texts:
        raise InputError(
            f"`int8` with `runtime` {OPENVINO}: scales are read off texts like those to come; give some "
            f"hundred, of which {SAMPLES} are read"
        )
    try:
        import openvino  # noqa: F401

        if int8:
            with _silent():
                import nncf  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(error, "openvino-int8" if int8 else EXTRAS[OPENVINO]) from error


def runtime_of(spec: SubnetworkSpec, runtime: str) -> str:
    """Name what runs a sub-network of an export for a runtime."""
    return ONNX_RUNTIME if spec.kind in SMALL else runtime


def sample_feeds(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, most: int, trunk: Path | None
) -> list[dict[str, NDArray[Any]]]:
    """Compute what graphs read of texts that are spread over those given, one a batch.

    Args:
        texts: All strings, or all pairs of strings.
        tokenizer: The tokenizer.
        most: Tokens that are kept of a text.
        trunk: The trunk's graph, in single precision; None of a dense model.

    Returns:
        For each text all inputs of all graphs by name: tokens ``[1, tokens]``, and behind a trunk ``hidden``.
    """
    given = list(checked_texts(texts))
    places = np.unique(np.linspace(0, len(given) - 1, SAMPLES).round().astype(int))
    tokens = tokens_of([given[place] for place in places], tokenizer, most)
    feeds: list[dict[str, NDArray[Any]]] = [{**tokens.batch(np.array([row]))[0]} for row in range(len(places))]
    if trunk is not None:
        session = OnnxSession(trunk, None)
        feeds = [feed | {"hidden": session.run(["hidden"], feed)[0]} for feed in feeds]
    return feeds


def quantise_static(file: Path, feeds: Sequence[Feed]) -> None:
    """Turn a graph into int8, in its place.

    Weights have a scale a column, activations one that is read off the feeds. Classifiers stay in single precision.

    Args:
        file: The graph in single precision.
        feeds: What it may read, by name; more than it reads is left.
    """
    import onnx

    graph = onnx.load(file)
    names = [given.name for given in graph.graph.input]
    samples = [{name: feed[name] for name in names} for feed in feeds]
    with _silent():
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

        made = nncf.quantize(
            graph,
            nncf.Dataset(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=classifiers_of(graph.graph)),
            # Processors without VNNI add two products in 16 bits, where weights of 8 bits overflow without a word.
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )
    for old in file.parent.glob(f"{file.name}*"):  # weights of large graphs lie in a file of their own
        old.unlink()
    onnx.save(made, file)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep NNCF's bars and notes to itself, and have it send nothing: it tells its makers of its use otherwise."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"  # which it reads when it is imported
    try:
        with quiet(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        os.environ.pop("NNCF_CI")
        if before is not None:
            os.environ["NNCF_CI"] = before
