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
from sharcs.spec import FIRST, MEAN, OWN, SHARED, SubnetworkSpec, check_front, front_specs, spec_of_width
from sharcs.stored import share_labels
from sharcs_runtime.policy import RoutingPolicy, label_of, policy_for_budget, policy_of

__all__ = ["BLEND", "RoutingPolicy", "SharcsConfig", "default_router_layer", "policy_for_budget", "policy_of"]

FORMAT = 2
# Given at construction; a file holds what they are short for.
SHORT_FORMS = ("widths", "front", "router_layer", "router_hidden_size", "weights")
DEFAULT_WIDTHS = (0.25, 1.0)
ROUTER_HIDDEN_SIZE = 1024
# A width may be written with two decimals (0.33 for a third of the heads), so this much rounding is accepted.
WIDTH_TOLERANCE = 0.01


# Default weight of the narrow network's probabilities in an escalated input's answer.
BLEND = 0.3


def default_router_layer(num_layers: int) -> int:
    """Scale the paper's router position (k = 3 of 12 layers, section 4) to another depth, at least 1."""
    return max(1, round(num_layers / 4))


class SharcsConfig(PreTrainedConfig):
    """Configuration of an encoder with a router and sub-networks (paper, section 3).

    Args:
        encoder: The full network's own configuration, or its dictionary form.
        widths: Ascending fractions of the heads and feed-forward neurons, and of the hidden size where weights are
            shared; the last is 1.0. Each has to give a whole number of attention heads (up to rounding in the second
            decimal: 0.33 of 12 is 4). Afterwards it holds the widths of all sub-networks, those in front included.
        front: Sub-networks that answer before the encoder runs, the cheapest first: ``lexical``, ``recurrent`` and
            ``compact``, or descriptions.
        router_layer: k, how many full-width layers run before the router, from 1 to L − 1. By default the
            paper's 3 of 12, scaled to the encoder's depth.
        router_hidden_size: Neurons in the router's hidden layer.
        readout: ``first``: the encoder's head reads what it always reads, of most encoders the first token. ``mean``:
            it finds the mean of the real tokens there.
        weights: ``own`` gives each narrow sub-network weights of its own, as the recipe ``sharcs+`` trains them;
            ``shared`` gives it slices of the full network's, as the paper has it.
        subnetworks: The sub-networks, the cheapest first, the full one last: what ``widths`` and ``weights`` are
            short for, and what a file holds. See :class:`~sharcs.spec.SubnetworkSpec`.
        router: What ``router_layer`` and ``router_hidden_size`` are short for: ``after_layer`` and ``hidden_size``.
        policy: Settings of :class:`RoutingPolicy`, as a dictionary.
        calibration: What ``sharcs calibrate`` found: the constraint, its evidence, and the policy of each budget.
        promise: What held-out rows say of the policy that a training has ended with; see
            :class:`~sharcs.stored.Promise`.
        label_type: What the labels of the training were: ``integer`` or ``boolean``; None for text.
        format: The version of the file's form.

    Raises:
        InputError: If a setting is out of range, or the file is of a later version; the message names the field.
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
    widths: list[float] | tuple[float, ...] = DEFAULT_WIDTHS
    front: list[Any] | tuple[Any, ...] = ()
    router_layer: int | None = None
    router_hidden_size: int | None = None
    readout: str = FIRST
    weights: str | None = None
    subnetworks: list[dict[str, Any]] | None = None
    router: dict[str, Any] | None = None
    policy: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    promise: dict[str, Any] | None = None
    label_type: str | None = None
    format: int = FORMAT

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill the defaults that depend on the encoder and validate everything."""
        if isinstance(self.encoder, PreTrainedConfig):
            # The base class hands its own choice down, and would reset one that the encoder has made already.
            kwargs.setdefault("attn_implementation", self.encoder._attn_implementation)
            if self.id2label is None and "num_labels" not in kwargs:
                # The task is the encoder's unless another one is given.
                self.id2label = copy.copy(self.encoder.id2label)
                self.label2id = copy.copy(self.encoder.label2id)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        assert isinstance(self.encoder, PreTrainedConfig)
        if self.policy is None:
            self.policy = {"cost_weight": 0.0}
        self._fill_router()
        front = self._fill_widths()
        self._validate_widths()
        self._validate_router()
        self._fill_subnetworks(front)
        # The task belongs to the outer configuration; the inner one follows, so that the head has its size.
        share_labels(self)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from what a file holds, of this format or an earlier one.

        Raises:
            InputError: If it is another model's configuration, or of a later format.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise InputError(
                f"this is a {model_type} model, not a routed one; wrap it with from_encoder, "
                "of SharcsForSequenceClassification or one of its siblings"
            )
        version = config_dict.get("format", 1)
        if version not in (1, FORMAT):
            raise InputError(f"format {version}: this version of sharcs reads up to {FORMAT}; update sharcs")
        if version == 1:
            config_dict = {name: value for name, value in config_dict.items() if name != "private_weights"} | {
                "weights": OWN if config_dict.get("private_weights") else SHARED,
                "format": FORMAT,
            }
        found = super().from_dict(config_dict, **kwargs)
        # What was given beside the file is set on the outer configuration alone.
        share_labels(found[0] if isinstance(found, tuple) else found)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Write it as plain values, without what ``subnetworks`` and ``router`` say."""
        values: dict[str, Any] = super().to_dict()
        return {name: value for name, value in values.items() if name not in SHORT_FORMS}

    @property
    def specs(self) -> list[SubnetworkSpec]:
        """The descriptions of the sub-networks, the full one last."""
        return [SubnetworkSpec.from_dict(spec) for spec in self.subnetworks or ()]

    @property
    def names(self) -> list[str]:
        """The names of the sub-networks, the full one last."""
        return [str(spec["name"]) for spec in self.subnetworks or ()]

    @property
    def routing_policy(self) -> RoutingPolicy:
        """The policy as an object."""
        return RoutingPolicy.from_dict(self.policy or {})

    @property
    def class_indices(self) -> dict[str, int]:
        """The classes' indices by their names, as text."""
        return {str(name): int(index) for index, name in (self.id2label or {}).items()}

    @property
    def front_count(self) -> int:
        """How many sub-networks answer before the encoder runs; they come first."""
        return sum(spec.is_front for spec in self.specs)

    @property
    def keys(self) -> list[float | str]:
        """What each sub-network is asked for by: its width, or the name of one in front of the encoder."""
        return [spec.name if spec.is_front else spec.width for spec in self.specs]

    def index_of(self, width: float | str) -> int:
        """Find the index of a sub-network, by its width or by its name.

        Raises:
            InputError: If the network has no such one.
        """
        if isinstance(width, str) and width in self.names:
            return self.names.index(width)
        for index, known in enumerate(self.keys):
            if not isinstance(width, str) and not isinstance(known, str) and math.isclose(width, known, abs_tol=1e-6):
                return index
        choices = ", ".join(map(label_of, self.keys))
        raise InputError(f"width {label_of(width)}: the network has the widths {choices}; choose one of them")

    def _fill_router(self) -> None:
        """Complete ``router`` and what is short for it, from one another."""
        if self.router is not None:
            for short, name in (("router_layer", "after_layer"), ("router_hidden_size", "hidden_size")):
                value = getattr(self, short)
                if value is not None and value != self.router.get(name):
                    raise InputError(
                        f"{short} {value}: router has the {name} {self.router.get(name)}; give one of both"
                    )
                setattr(self, short, self.router.get(name))
        assert isinstance(self.encoder, PreTrainedConfig)
        if self.router_layer is None:
            self.router_layer = default_router_layer(layers_config(self.encoder).num_hidden_layers)
        if self.router_hidden_size is None:
            self.router_hidden_size = ROUTER_HIDDEN_SIZE
        self.router = {"after_layer": self.router_layer, "hidden_size": self.router_hidden_size}

    def _fill_widths(self) -> list[SubnetworkSpec]:
        """Complete ``widths`` and ``weights``, of those that run inside the encoder; returns the others."""
        assert isinstance(self.encoder, PreTrainedConfig)
        front = front_specs(self.encoder, self.front)
        if self.subnetworks is not None:
            written = [spec for spec in self.specs if spec.is_front]
            if front and front != written:
                raise InputError(f"front {self.front}: subnetworks has others; give one of both")
            front = written
            specs = [spec for spec in self.specs if not spec.is_front]
            widths = [spec.width for spec in specs]
            every = tuple(spec.width for spec in self.specs)
            if tuple(self.widths) not in (DEFAULT_WIDTHS, tuple(widths), every):
                raise InputError(f"widths {self.widths}: subnetworks has the widths {widths}; give one of both")
            self.widths = widths
            kinds = {spec.kind for spec in specs[:-1]} or {OWN}
            if len(kinds) > 1 or (self.weights is not None and self.weights not in kinds):
                raise InputError(
                    f"weights {self.weights}: subnetworks has the kinds {sorted(kinds)}; give one of both"
                )
            (self.weights,) = kinds
        if self.weights is None:
            self.weights = OWN
        if self.weights not in (OWN, SHARED):
            raise InputError(f"weights {self.weights!r}: has to be {OWN} or {SHARED}")
        try:
            self.widths = [float(width) for width in self.widths]
        except (TypeError, ValueError):
            raise InputError(f"widths {self.widths!r}: have to be numbers, like (0.25, 1.0)") from None
        return front

    def _fill_subnetworks(self, front: list[SubnetworkSpec]) -> None:
        """Describe the sub-networks; a file's description has to be the same."""
        assert isinstance(self.encoder, PreTrainedConfig)
        specs = [
            spec_of_width(self.encoder, width, str(self.weights), int(self.router_layer or 0))
            for width in self.widths
        ]
        specs = [*front, *specs]
        if self.readout not in (FIRST, MEAN):
            raise InputError(f"readout {self.readout!r}: has to be {FIRST} or {MEAN}")
        check_front(front, str(self.weights), self.problem_type)
        written = [spec.to_dict() for spec in specs]
        self.front, self.widths = (), [spec.width for spec in specs]
        if self.subnetworks is not None and self.subnetworks != written:
            raise InputError("subnetworks: don't fit the encoder's configuration; train again")
        self.subnetworks = written
        self.routing_policy.check_names(self.names)

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
        policy = self.routing_policy
        if policy.escalates and self.problem_type == "regression":
            raise InputError("policy escalation_threshold: a regression has no confidence; leave it None")


AutoConfig.register("sharcs", SharcsConfig)
