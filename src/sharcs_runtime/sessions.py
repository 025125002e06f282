"""One graph of an export on what runs it: ONNX Runtime or OpenVINO, each with inputs and outputs by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"
RUNTIMES = (ONNX_RUNTIME, OPENVINO)
# Extras that bring them.
EXTRAS = {ONNX_RUNTIME: "onnx", OPENVINO: "openvino"}
CPU = ("CPUExecutionProvider",)


class Session(Protocol):
    """A graph that any number of threads may run at once.

    Attributes:
        inputs: Names of what it reads.
        outputs: The last size of each of its outputs, by name; None where it may be any.
    """

    inputs: tuple[str, ...]
    outputs: dict[str, int | None]

    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute some of the outputs; of what it is fed, a graph takes what it reads."""


class OnnxSession:
    """A graph on ONNX Runtime.

    Args:
        file: The graph.
        threads: Of a matrix product; by default ONNX Runtime's choice.
        providers: Its execution providers, the preferred first.
    """

    def __init__(self, file: Path, threads: int | None, providers: Sequence[str] = CPU) -> None:
        """Load it; raises whatever ONNX Runtime does."""
        import onnxruntime  # here, so that the policy and the scheduling can be used without it

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        if threads is not None:
            options.intra_op_num_threads = threads
        # The threads of one graph would go on spinning for a while, and take the processors from the next graph.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # On a CPU an addition and a norm are faster apart than in the one operator that they would be fused to.
        disabled = ["SkipLayerNormFusion"] if tuple(providers) == CPU else []
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=list(providers), disabled_optimizers=disabled
        )
        self.inputs = tuple(given.name for given in self._session.get_inputs())
        self.outputs = {made.name: _size(made.shape[-1]) for made in self._session.get_outputs()}

    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute some of the outputs."""
        return self._session.run(list(names), {name: feed[name] for name in self.inputs})  # type: ignore[no-any-return]


class OpenVinoSession:
    """A graph on OpenVINO, on the processor, with numbers in single precision where they are not in int8.

    Args:
        file: The graph.
        threads: That work on one batch; by default OpenVINO's choice.
    """

    def __init__(self, file: Path, threads: int | None) -> None:
        """Load it; raises whatever OpenVINO does."""
        import openvino

        # By itself it would compute in bfloat16 where the processor has that, and tie its threads to processors, the
        # threads of several processes to the same ones.
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._compiled = openvino.Core().compile_model(str(file), "CPU", settings)
        self.inputs = tuple(given.get_any_name() for given in self._compiled.inputs)
        self.outputs = {
            made.get_any_name(): size.get_length() if size.is_static else None
            for made in self._compiled.outputs
            for size in [made.get_partial_shape()[-1]]
        }
        self._idle: list[Any] = []  # requests, of which a thread takes one for itself

    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute all of the outputs, and return some."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            found = request.infer({name: feed[name] for name in self.inputs}, share_inputs=True)
            return [found[name] for name in names]
        finally:
            self._idle.append(request)


def open_session(
    file: Path, runtime: str = ONNX_RUNTIME, threads: int | None = None, providers: Sequence[str] = CPU
) -> Session:
    """Load a graph.

    Args:
        file: The graph.
        runtime: ``onnxruntime`` or ``openvino``.
        threads: That work on one batch; by default the runtime's choice.
        providers: ONNX Runtime's execution providers.

    Raises:
        ImportError: If the runtime is not installed.
        Exception: Whatever else the runtime raises of a graph that it can't load.
    """
    return OpenVinoSession(file, threads) if runtime == OPENVINO else OnnxSession(file, threads, providers)


def version_of(runtime: str) -> str:
    """Tell a runtime's version."""
    from importlib import metadata

    return metadata.version(runtime)


def _size(found: Any) -> int | None:
    return found if isinstance(found, int) else None
