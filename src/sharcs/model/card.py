"""The model card that is written beside a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sharcs.stored import Promise
from sharcs_runtime.policy import relative_cost

if TYPE_CHECKING:
    import os

    from sharcs.config import SharcsConfig
    from sharcs.model.passes import RoutedPasses

CARD_FILE = "README.md"
LENGTHS = (16, 128)  # tokens of the inputs whose cost is shown
PIPELINES = {"text": "text-classification", "image": "image-classification", "audio": "audio-classification"}

TEMPLATE = """---
library_name: sharcs
pipeline_tag: {pipeline}
tags: [sharcs, adaptive-inference]
---

# A routed {encoder}

Each input runs one of {count} sub-networks of this {encoder} encoder, and goes on to a dearer one where it is unsure
of its answer, as [SHARCS](https://arxiv.org/abs/2310.12126) does.

## Use

```python
import sharcs  # registers the model with the Auto classes of transformers

model = sharcs.{name}.from_pretrained("FOLDER")
```

## Sub-networks

| name | kind | layers | heads | neurons | hidden size | {costs} |
|---|---|---|---|---|---|{lines}|
{rows}

Cost is in % of the full network's FLOPs on an input of that many tokens, the router included.

## Policy

{policy}

{evidence}
"""


def write_card(model: RoutedPasses, folder: str | os.PathLike[str]) -> None:
    """Write the card into a model's directory."""
    (Path(folder) / CARD_FILE).write_text(model_card(model), encoding="utf-8")


def model_card(model: RoutedPasses) -> str:
    """Write what a model consists of, what it costs, and what speaks for its policy, as Markdown."""
    config = model.config
    relative = relative_cost(model.cost_coefficients().cpu(), torch.tensor(LENGTHS))  # [lengths, widths]
    rows = []
    for index, spec in enumerate(config.specs):
        costs = " | ".join(f"{100 * float(cost):.1f}" for cost in relative[:, index])
        sizes = f"{spec.layers} | {spec.heads} | {spec.neurons} | {spec.hidden}"
        rows.append(f"| {spec.name} | {spec.kind} | {sizes} | {costs} |")
    return TEMPLATE.format(
        pipeline="token-classification" if model.head_per_token else PIPELINES[str(model.input_modalities)],
        encoder=config.encoder.model_type,  # type: ignore[union-attr]
        count=len(config.specs),
        name=type(model).__name__,
        costs=" | ".join(f"cost at {length} tokens, %" for length in LENGTHS),
        lines="---|" * (len(LENGTHS) - 1) + "---",
        rows="\n".join(rows),
        policy=f"{config.routing_policy.label()}; blend {config.routing_policy.blend:g}.".capitalize(),
        evidence=_evidence(config),
    )


def _evidence(config: SharcsConfig) -> str:
    """Say what a calibration found, or held-out rows of the training."""
    calibration, promise = config.calibration, config.promise
    if calibration is None and promise is not None and promise["policy"] == config.policy:
        what, bounds, *_ = Promise(**promise).lines()
        return f"Its training says: {what}; {bounds}."
    if calibration is None:
        return "It was not calibrated: nothing is promised. `sharcs calibrate` chooses a policy that keeps a limit."
    limit = f"`{calibration['kind']}` of at most {calibration['limit']:g}"
    if not calibration["met"]:
        return f"No policy kept a {limit} on {calibration['rows_tested']:,} rows: every input runs the full network."
    observed = f"{calibration['observed']:.4g} was observed on {calibration['rows_tested']:,} rows"
    cost = f"at {100 * calibration['cost_ratio']:.1f}% of the full network's FLOPs"
    tested = "in {} on {}".format(calibration.get("numbers", "float32"), calibration.get("runtime", "torch"))
    return f"It keeps a {limit} with confidence {calibration['confidence']:g}: {observed}, {cost}, {tested}."
