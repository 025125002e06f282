"""Graphs in int8: matrix products by ONNX Runtime, and if wanted the tables of embeddings, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.errors import InputError
from sharcs.export.onnx import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGEST = 127  # of int8, on both sides of zero


def check_int8(int8: bool, int8_embeddings: bool) -> None:
    """Refuse tables in int8 beside matrix products in single precision.

    Raises:
        InputError: If that is asked for.
    """
    if int8_embeddings and not int8:
        raise InputError("`int8_embeddings`: goes on from `int8`; give both")


def quantise_graph(file: Path, embeddings: bool = False) -> None:
    """Turn a graph into int8, in its place.

    Weights of matrix products have a scale a column, and activations are scaled as they come. Classifiers stay.

    Args:
        file: The graph in single precision.
        embeddings: Whether its tables are turned, too; else they stay as they are.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = file.with_name(f"int8-{file.name}")
    kept = classifiers_of(onnx.load(file, load_external_data=False).graph)
    with quiet():
        quantize_dynamic(
            file,
            small,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            # A Gemm is turned into a MatMul of this name first.
            nodes_to_exclude=[*kept, *(f"{name}_MatMul" for name in kept)],
        )
    if embeddings:
        _quantise_tables(small)
    for old in file.parent.glob(f"{file.name}*"):  # weights of large graphs lie in a file of their own
        old.unlink()
    small.rename(file)


def classifiers_of(graph: Any) -> list[str]:
    """Name the matrix products that logits are made of, and nothing but sums behind them.

    They stay in single precision: they cost next to nothing, and answers are what they give. What a lexical network's
    reads, means of tokens' vectors, is far larger for a rare token alone than for a whole text, and one scale for a
    whole batch leaves little of the small ones.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    wanted = [made_by.get(one.name) for one in graph.output if one.name.endswith("logits")]
    found = []
    while wanted:
        node = wanted.pop()
        if node is not None and node.op_type in ("MatMul", "Gemm"):
            found.append(node.name)
        elif node is not None and node.op_type in ("Add", "Concat"):
            wanted.extend(made_by.get(name) for name in node.input)
    return sorted(found)


def _quantise_tables(file: Path) -> None:
    """Turn the tables that a graph looks rows up in into int8, with a scale a row.

    ONNX Runtime's own quantisation of a lookup has one scale for the whole table, which the rows of rare words, whose
    numbers are small, hardly survive. Here a row's scale is looked up beside it.
    """
    import onnx
    from onnx import numpy_helper

    content = onnx.load(file)
    graph = content.graph
    tables = _tables_of(graph)
    kept = [one for one in graph.initializer if one.name not in tables]
    for name, table in tables.items():
        values = numpy_helper.to_array(table)
        scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(LARGEST)
        scales[scales == 0] = 1  # a row of zeros, as padding has
        kept.append(numpy_helper.from_array(np.rint(values / scales).astype(np.int8), f"{name}.int8"))
        kept.append(numpy_helper.from_array(scales, f"{name}.scale"))
    nodes = [new for node in graph.node for new in (_lookup(node) if _reads_rows(node, tables) else [node])]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.save(content, file)


def _tables_of(graph: Any) -> dict[str, Any]:
    """Find the tables in single precision of which a graph does nothing but look rows up."""
    import onnx

    tables = {one.name: one for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
    # A scale takes four bytes a row, as one number in single precision does.
    tables = {name: one for name, one in tables.items() if len(one.dims) == 2 and one.dims[1] > 1}
    looked_up = {node.input[0] for node in graph.node if _reads_rows(node, tables)}
    read_otherwise = set(_read_inside(graph))
    for node in graph.node:
        read_otherwise.update(node.input[1:] if _reads_rows(node, tables) else node.input)
    return {name: tables[name] for name in sorted(looked_up - read_otherwise)}


def _read_inside(graph: Any) -> Iterator[str]:
    """Name what is read by graphs inside a graph: bodies of loops, and branches."""
    for inner in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        yield from (name for node in inner.node for name in node.input)
        yield from _read_inside(inner)


def _reads_rows(node: Any, tables: dict[str, Any]) -> bool:
    """Tell whether a node looks rows up in one of the tables."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[0] in tables and axis == 0


def _lookup(node: Any) -> list[Any]:
    """Make the nodes that look up an int8 row and its scale, and multiply them."""
    from onnx import TensorProto, helper

    table, rows = node.input
    output = node.output[0]
    return [
        helper.make_node("Gather", [f"{table}.int8", rows], [f"{output}.int8"], axis=0),
        helper.make_node("Cast", [f"{output}.int8"], [f"{output}.whole"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{table}.scale", rows], [f"{output}.scale"], axis=0),
        helper.make_node("Mul", [f"{output}.whole", f"{output}.scale"], [output]),
    ]
