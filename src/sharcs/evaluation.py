"""Accuracy against cost: every width on every input, then the router beside random and oracle routers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from sharcs.config import RoutingPolicy
from sharcs.cost import flops
from sharcs.router import choose_width

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from torch import Tensor

    from sharcs.modeling import SharcsForSequenceClassification

__all__ = ["WidthOutputs", "accuracy_report", "run_all_widths"]

RANDOM_DRAWS = 20
CURVE_POINTS = 41


@dataclass(frozen=True, slots=True)
class WidthOutputs:
    """What every width says about every input, in input order.

    Attributes:
        predictions: Predicted class, int64 ``[inputs, widths]``.
        scores: Its probability, ``[inputs, widths]``.
        router_logits: ``[inputs, widths]``.
        lengths: Real tokens, int64 ``[inputs]``.
    """

    predictions: Tensor
    scores: Tensor
    router_logits: Tensor
    lengths: Tensor


@torch.inference_mode()
def run_all_widths(
    model: SharcsForSequenceClassification,
    rows: Sized,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> WidthOutputs:
    """Run every input at every width.

    Args:
        model: The routed network; it is put into evaluation mode.
        rows: Tokenised inputs, a map-style data set; only what the tokenizer makes is read.
        collate: Pads rows into a batch.
        batch_size: Inputs a batch; they are ordered by length, so that little is padded.
        on_batch: Called with the number of inputs after each batch, for a progress bar.

    Returns:
        Tensors on the CPU.
    """
    model.train(False)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])  # type: ignore[attr-defined]
    order = lengths.argsort(descending=True, stable=True)
    names = ("input_ids", "attention_mask", "token_type_ids")

    def batch_of(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        return collate([{name: row[name] for name in names if name in row} for row in batch])

    loader: DataLoader[Any] = DataLoader(
        rows,  # type: ignore[arg-type]
        sampler=order.tolist(),
        batch_size=batch_size,
        collate_fn=batch_of,
    )
    predictions, scores, router_logits = [], [], []
    for batch in loader:
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        outputs = [model(**inputs, width=width) for width in model.config.widths]
        best = [output.logits.float().softmax(dim=-1).max(dim=-1) for output in outputs]
        predictions.append(torch.stack([one.indices for one in best], dim=1))
        scores.append(torch.stack([one.values for one in best], dim=1))
        router_logits.append(outputs[-1].router_logits.float())
        if on_batch:
            on_batch(len(predictions[-1]))
    back = order.argsort()
    return WidthOutputs(
        predictions=torch.cat(predictions).cpu()[back],
        scores=torch.cat(scores).cpu()[back],
        router_logits=torch.cat(router_logits).cpu()[back],
        lengths=lengths,
    )


def accuracy_report(
    model: SharcsForSequenceClassification,
    outputs: WidthOutputs,
    labels: Tensor,
    width: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the router under the configured policy with the full network, random routing and an oracle.

    Args:
        model: The routed network, for its widths, policy and costs.
        outputs: From :func:`run_all_widths`.
        labels: True classes, int64 ``[inputs]``.
        width: Routes every input to this width; by default the configured policy routes.
        seed: For the random router.

    Returns:
        The JSON of ``sharcs evaluate``. ``full`` is width 1.0 on every input without a router; ``random`` sends the
        same shares at random (mean of 20 draws); ``oracle`` takes the cheapest width that is right, and the
        cheapest of all where none is. Accuracies are fractions, costs FLOPs an input.
    """
    widths = list(model.config.widths)
    correct = outputs.predictions == labels.unsqueeze(1)  # [inputs, widths]
    cost = flops(model.cost_coefficients().cpu(), outputs.lengths)  # [inputs, widths + 1]
    cost, full_cost = cost[:, :-1], cost[:, -1:]
    relative = cost / full_cost

    def point(chosen: Tensor) -> dict[str, float]:
        column = chosen.unsqueeze(1)
        spent = cost.gather(1, column).mean()
        return {
            "accuracy": correct.gather(1, column).double().mean().item(),
            "flops": spent.item(),
            "flops_ratio": (spent / full_cost.mean()).item(),
        }

    if width is None:
        chosen = choose_width(outputs.router_logits, relative, model.config.routing_policy)
    else:
        chosen = torch.full((len(labels),), model.config.index_of(width))
    generator = torch.Generator().manual_seed(seed)
    draws = [point(chosen[torch.randperm(len(chosen), generator=generator)])["accuracy"] for _ in range(RANDOM_DRAWS)]
    right_or_last = torch.cat([correct, ~correct.any(dim=1, keepdim=True)], dim=1).int().argmax(dim=1)
    oracle = torch.where(right_or_last == len(widths), 0, right_or_last)
    per_width = []
    for index, known in enumerate(widths):
        here = chosen == index
        per_width.append(
            {
                "width": known,
                "accuracy": correct[:, index].double().mean().item(),
                "flops_ratio": (cost[:, index].mean() / full_cost.mean()).item(),
                "share": here.double().mean().item(),
                "accuracy_routed": correct[here, index].double().mean().item() if here.any() else None,
            }
        )
    curve = []
    for weight in curve_weights(outputs.router_logits, relative):
        at = point(choose_width(outputs.router_logits, relative, RoutingPolicy(cost_weight=weight)))
        curve.append({"cost_weight": weight, "flops_ratio": at["flops_ratio"], "accuracy": at["accuracy"]})
    return {
        "samples": len(labels),
        "metric": "accuracy",
        "full": {"accuracy": correct[:, -1].double().mean().item(), "flops": full_cost.mean().item()},
        "routed": point(chosen),
        "widths": per_width,
        "random": {"accuracy": sum(draws) / len(draws)},
        "oracle": {key: value for key, value in point(oracle).items() if key != "flops"},
        "curve": curve,
    }


def curve_weights(router_logits: Tensor, relative: Tensor) -> list[float]:
    """Choose the cost weights that sweep the policy evenly from all inputs narrow to all inputs full.

    An input changes between two widths where their scores' difference equals λ times their costs' difference, so the
    quantiles of those λ move equal shares of the inputs.

    Returns:
        Ascending weights, with 0, the paper's policy, among them.
    """
    if relative.shape[1] == 1:
        return [0.0]
    scores = torch.sigmoid(router_logits.double())
    critical = []
    for low in range(relative.shape[1]):
        for high in range(low + 1, relative.shape[1]):
            critical.append((scores[:, low] - scores[:, high]) / (relative[:, low] - relative[:, high]))
    every = torch.cat(critical)
    inner = torch.quantile(every[:: max(1, len(every) // 1_000_000)], torch.linspace(0, 1, CURVE_POINTS).double())
    ends = torch.tensor([every.min() - 1e-6, every.max() + 1e-6, 0.0])
    return sorted(set(torch.cat([inner, ends]).tolist()))
