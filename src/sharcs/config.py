"""The architecture settings of a routed network, validated once, here."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from sharcs.encoders.architectures import head_groups, layers_config
from sharcs.errors import InputError
from sharcs_runtime.policy import RoutingPolicy

__all__ = ["BLEND", "RoutingPolicy", "SharcsConfig", "default_router_layer"]

# A width may be written with two decimals (0.33 for a third of the heads), so this much rounding is accepted.
WIDTH_TOLERANCE = 0.01


# Of the narrow answer, where two are at hand and nothing has to equal the full network's.
BLEND = 0.3


def default_router_layer(num_layers: int) -> int:
    """Scale the paper's router position (k = 3 of 12 layers, section 4) to another depth, at least 1."""
    return max(1, round(num_layers / 4))


class SharcsConfig(PreTrainedConfig):
    """Configuration of an encoder with a router and sub-networks of several widths (paper, section 3).

    Args:
        encoder: The full network's own configuration, or its dictionary form.
        widths: Ascending fractions of the heads and feed-forward neurons, and of the hidden size where weights are
            shared; the last is 1.0. Each has to give a whole number of attention heads (up to rounding in the second
            decimal: 0.33 of 12 is 4).
        router_layer: k, how many full-width layers run before the router, from 1 to L − 1. By default the
            paper's 3 of 12, scaled to the encoder's depth.
        router_hidden_size: Neurons in the router's hidden layer.
        private_weights: Whether each narrow width has weights of its own
            (:class:`~sharcs.subnetworks.own.PrivateSubnetwork`), in place of slices of the full network's. The
            trainer sets it for the recipe ``sharcs+``.
        policy: Settings of :class:`RoutingPolicy`, as a dictionary.
        calibration: What ``sharcs calibrate`` found: the constraint, its evidence, and the policy of each budget.

    Raises:
        InputError: If widths, router layer or policy are out of range; the message names the field.
    """

    model_type: ClassVar[str] = "sharcs"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "encoder": SubConfigSpec(config_class=AutoConfig, model_type="bert")
    }

    # So that `Trainer.predict` and metrics see plain logits.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "router_logits",
        "width_index",
        "first_width_index",
        "width_logits",
    ]

    encoder: PreTrainedConfig | dict[str, Any] | None = None
    widths: list[float] | tuple[float, ...] = (0.25, 1.0)
    router_layer: int | None = None
    router_hidden_size: int = 1024
    private_weights: bool = False
    policy: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill the defaults that depend on the encoder and validate everything."""
        if isinstance(self.encoder, PreTrainedConfig):
            # The base class hands its own choice down, and would reset one that the encoder has made already.
            kwargs.setdefault("attn_implementation", self.encoder._attn_implementation)
            if self.id2label is None and "num_labels" not in kwargs:
                # The task is the encoder's unless another one is given.
                self.id2label, self.label2id = copy.copy(self.encoder.id2label), copy.copy(self.encoder.label2id)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        assert isinstance(self.encoder, PreTrainedConfig)
        try:
            self.widths = [float(width) for width in self.widths]
        except (TypeError, ValueError):
            raise InputError(f"widths {self.widths!r}: have to be numbers, like (0.25, 1.0)") from None
        if self.router_layer is None:
            self.router_layer = default_router_layer(layers_config(self.encoder).num_hidden_layers)
        if self.policy is None:
            self.policy = {"cost_weight": 0.0}
        self._validate_widths()
        self._validate_router()
        # The task belongs to the outer configuration; the inner one follows, so that the head has its size.
        self.encoder.id2label, self.encoder.label2id = copy.copy(self.id2label), copy.copy(self.label2id)
        self.encoder.problem_type = self.problem_type

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from what a file holds.

        Raises:
            InputError: If it is another model's configuration.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise InputError(
                f"this is a {model_type} model, not a routed one; wrap it with from_encoder, "
                "of SharcsForSequenceClassification or one of its siblings"
            )
        return super().from_dict(config_dict, **kwargs)

    @property
    def routing_policy(self) -> RoutingPolicy:
        """The policy as an object."""
        return RoutingPolicy(**(self.policy or {}))

    @property
    def class_indices(self) -> dict[str, int]:
        """The classes' indices by their names, as text."""
        return {str(name): int(index) for index, name in (self.id2label or {}).items()}

    def index_of(self, width: float) -> int:
        """Find the index of ``width`` among the widths.

        Raises:
            InputError: If the network has no such width.
        """
        for index, known in enumerate(self.widths):
            if math.isclose(width, known, abs_tol=1e-6):
                return index
        choices = ", ".join(f"{known:g}" for known in self.widths)
        raise InputError(f"width {width:g}: the network has the widths {choices}; choose one of them")

    def _validate_widths(self) -> None:
        widths = list(self.widths)
        if not widths or widths[-1] != 1.0:
            raise InputError(f"widths {widths}: the last width has to be 1.0; end the list with 1.0")
        if any(not 0 < width <= 1 for width in widths):
            raise InputError(f"widths {widths}: each has to be above 0 and at most 1; correct the list")
        if any(low >= high for low, high in pairwise(widths)):
            raise InputError(f"widths {widths}: they have to ascend without repeats; sort the list")
        assert isinstance(self.encoder, PreTrainedConfig)
        sizes = layers_config(self.encoder)
        heads = head_groups(sizes)
        kind = "attention heads" if heads == sizes.num_attention_heads else "groups of attention heads"
        for width in widths:
            whole = round(width * heads)
            if whole < 1 or abs(width - whole / heads) > WIDTH_TOLERANCE:
                choices = ", ".join(f"{count / heads:.3g}" for count in range(1, heads + 1))
                raise InputError(
                    f"widths {widths}: {width:g} of {heads} {kind} is no whole number of them; choose from {choices}"
                )
        if len({round(width * heads) for width in widths}) < len(widths):
            raise InputError(f"widths {widths}: two of them give the same number of the {heads} {kind}")

    def _validate_router(self) -> None:
        assert isinstance(self.encoder, PreTrainedConfig)
        layers = int(layers_config(self.encoder).num_hidden_layers)
        if type(self.router_layer) is not int or not 1 <= self.router_layer <= layers - 1:
            raise InputError(
                f"router_layer {self.router_layer}: has to be from 1 to {layers - 1}, since the encoder has "
                f"{layers} layers and at least one has to follow the router"
            )
        if type(self.router_hidden_size) is not int or self.router_hidden_size < 1:
            raise InputError(f"router_hidden_size {self.router_hidden_size}: has to be a whole number, at least 1")
        try:
            policy = RoutingPolicy(**(self.policy or {}))
        except TypeError as error:
            known = ", ".join(RoutingPolicy.__dataclass_fields__)
            raise InputError(f"policy {self.policy}: unknown setting; known are {known}") from error
        if not isinstance(policy.cost_weight, int | float) or not math.isfinite(policy.cost_weight):
            raise InputError(f"policy cost_weight {policy.cost_weight}: has to be a finite number")
        if isinstance(policy.blend, bool) or not isinstance(policy.blend, int | float) or not 0 <= policy.blend <= 1:
            raise InputError(f"policy blend {policy.blend}: has to be from 0 to 1")
        threshold = policy.escalation_threshold
        if threshold is None:
            return
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise InputError(f"policy escalation_threshold {threshold}: has to be from 0 to 1, or None")
        if self.problem_type == "regression":
            raise InputError("policy escalation_threshold: a regression has no confidence; leave it None")


AutoConfig.register("sharcs", SharcsConfig)
