"""The strongest runtimes for the full network that a user could take instead, one class each.

Every one answers texts in batches of its own best form: by length, without padding to more than a batch's longest.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from judge.networks import mean_of_tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from judge.data import Rows
    from judge.networks import Network

BATCH_TOKENS = 2048
OPSET = 17
CALIBRATION_ROWS = 300
INPUTS = ("input_ids", "token_type_ids", "attention_mask")

Logits = NDArray[np.float32]


def by_length(rows: Rows) -> list[list[int]]:
    """Divide rows into batches of 2,048 tokens, the longest first."""
    order = np.argsort(-rows.lengths, kind="stable")
    made, start = [], 0
    while start < len(order):
        count = max(1, BATCH_TOKENS // int(rows.lengths[order[start]]))
        made.append(order[start : start + count].tolist())
        start += count
    return made


class Batched:
    """Answers tokenised rows, batched by length.

    Args:
        answer: From a batch's inputs, int64 arrays by name, to logits ``[batch, classes]``.
    """

    def __init__(self, answer: Callable[[dict[str, NDArray[np.int64]]], Logits]) -> None:
        self.answer = answer

    def __call__(self, rows: Rows) -> Logits:
        batches = by_length(rows)
        parts = [
            self.answer({name: value.numpy() for name, value in rows.batch(indices).items()}) for indices in batches
        ]
        merged = np.concatenate(parts)
        result = np.empty_like(merged)
        result[np.concatenate(batches)] = merged
        return result


def torch_plain(network: Network, *, compiled: bool = False, bfloat16: bool = False) -> Batched:
    """PyTorch itself, compiled for any shape or in bfloat16 if that is asked for."""
    run: Any = torch.compile(network, dynamic=True) if compiled else network

    @torch.inference_mode()
    def answer(inputs: dict[str, NDArray[np.int64]]) -> Logits:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits: Logits = run(tensors).float().numpy()
        return logits

    return Batched(answer)


class _Positional(torch.nn.Module):
    """The network with inputs by position, as an exporter wants it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
        inputs = {"input_ids": input_ids, "token_type_ids": token_type_ids, "attention_mask": attention_mask}
        return self.network(inputs)


def to_onnx(network: Network, file: Path) -> Path:
    """Export the network in float32, for any batch and length."""
    example = tuple(torch.ones(2, 9, dtype=torch.long) for _ in INPUTS)
    axes = {name: {0: "batch", 1: "tokens"} for name in INPUTS} | {"logits": {0: "batch"}}
    before = network.config._attn_implementation
    network.model.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the graphs that ONNX Runtime's optimiser knows come from the older exporter
        torch.onnx.export(
            _Positional(network).train(False),  # the exporter leaves all in the mode of this module
            example,
            str(file),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    network.model.set_attn_implementation(before)
    return file


def onnx_runtime(file: Path, threads: int) -> Batched:
    """ONNX Runtime on a graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Batched(lambda inputs: session.run(["logits"], inputs)[0])


def optimised(file: Path, network: Network) -> Path:
    """Fuse a graph by ONNX Runtime's optimiser for transformers."""
    from onnxruntime.transformers import optimizer

    target = file.with_name(f"{file.stem}-optimised.onnx")
    config = network.config
    made = optimizer.optimize_model(
        str(file), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    made.save_model_to_file(str(target))
    return target


def dynamic_int8(file: Path) -> Path:
    """Quantise a graph's weights, activations on the fly, as `sharcs export --int8` does."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = file.with_name(f"{file.stem}-int8.onnx")
    # Types behind fused operations can't be inferred; all that has one is in single precision.
    types = {"DefaultTensorType": TensorProto.FLOAT}
    quantize_dynamic(str(file), str(target), weight_type=QuantType.QInt8, per_channel=True, extra_options=types)
    return target


def openvino(file: Path, threads: int, *, how: str, rows: Rows | None = None) -> Batched:
    """OpenVINO on a graph: ``float32``; ``dynamic``, int8 weights; ``static``, by NNCF with rows to calibrate on."""
    import openvino as ov

    core = ov.Core()
    model: Any = core.read_model(str(file))
    if how != "float32":
        import nncf

        if how == "dynamic":
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        else:
            assert rows is not None
            samples = [
                {name: value.numpy() for name, value in rows.batch([i]).items()}
                for i in range(min(CALIBRATION_ROWS, len(rows)))
            ]
            model = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(model, "CPU", settings)
    return Batched(lambda inputs: compiled(inputs)["logits"])


def ctranslate2(network: Network, folder: Path, threads: int, compute: str) -> Batched:
    """CTranslate2 on the encoder; the classifier, which it doesn't have, is NumPy's."""
    import ctranslate2 as ct2

    source = folder / "bert"
    network.model.bert.save_pretrained(source)
    from common import tokenizer

    tokenizer().save_pretrained(source)
    target = folder / f"ctranslate2-{compute}"
    ct2.converters.TransformersConverter(str(source)).convert(str(target), quantization=compute, force=True)
    encoder = ct2.Encoder(str(target), device="cpu", compute_type=compute, intra_threads=threads, inter_threads=1)
    classifier = network.model.classifier

    @torch.inference_mode()
    def answer(inputs: dict[str, NDArray[np.int64]]) -> Logits:
        mask = torch.from_numpy(inputs["attention_mask"])
        ids = ct2.StorageView.from_array(inputs["input_ids"].astype(np.int32))
        lengths = ct2.StorageView.from_array(inputs["attention_mask"].sum(1).astype(np.int32))
        types = inputs["token_type_ids"].tolist()
        output = encoder.forward_batch(ids, lengths, token_type_ids=types)
        hidden = torch.from_numpy(np.array(output.last_hidden_state))
        first = hidden if network.readout == "cls" else mean_of_tokens(hidden, mask).unsqueeze(1)
        logits: Logits = classifier(network.model.bert.pooler(first)).numpy()
        return logits

    return Batched(answer)
