"""The routed classifier: any Hugging Face encoder with a router and sub-networks inside."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from sharcs.architectures import architecture_of, body_of
from sharcs.calls import RoutedLayers, RoutingCall, TrunkDone, own_where_narrow, select_rows, skip_when_continuing
from sharcs.config import SharcsConfig
from sharcs.cost import continuation_coefficients, cost_coefficients, relative_cost
from sharcs.errors import InputError
from sharcs.frontier import policy_for_budget
from sharcs.layers import check_architecture, find_layers, in_order, replace_layers
from sharcs.outputs import SharcsOutput
from sharcs.router import blended, choose_width, confidence, unsure
from sharcs.subnetworks import RoutedTail
from sharcs.trial import plain_answer, try_out

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["SharcsForSequenceClassification", "SharcsOutput"]


# What decides where a configuration comes from; the rest of from_pretrained's options concern the weights.
HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)


class SharcsForSequenceClassification(PreTrainedModel):
    """A sequence classifier whose layers after the router run at a width of each input's own (paper, section 3).

    Args:
        config: The routed network's configuration.
        encoder: The full network with its task head, taken over as it is; by default one with random weights.
    """

    config_class = SharcsConfig
    config: SharcsConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    input_modalities = "text"
    # The loss is a mean over the batch; the trainer divides by the accumulation steps.
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: SharcsConfig, encoder: PreTrainedModel | None = None) -> None:
        """Build or take over the encoder and put the routed tail in the place of its layers k+1..L."""
        super().__init__(config)
        self.encoder = (
            encoder if encoder is not None else AutoModelForSequenceClassification.from_config(config.encoder)
        )
        config.encoder = self.encoder.config
        check_architecture(self.encoder)
        architecture, body = architecture_of(self.encoder.config), body_of(self.encoder)
        modules = find_layers(self.encoder)
        layers, k = in_order(modules, self.encoder.config), int(config.router_layer or 0)
        final_norm = None if architecture.final_norm is None else body.get_submodule(architecture.final_norm)
        self._tail = [RoutedTail(layers[k:], self.encoder.config, config, final_norm)]
        repeated = architecture.repeated_layers is not None
        replace_layers(self.encoder, modules, RoutedLayers(layers, self._tail[0], repeated=repeated))
        if final_norm is not None:
            own_where_narrow(final_norm)
        for name, module in body.named_children():
            if name == "embeddings":
                skip_when_continuing(module)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_encoder(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        widths: Sequence[float] = (0.25, 1.0),
        router_layer: int | None = None,
        num_labels: int | None = None,
        id2label: dict[int, str] | None = None,
        problem_type: str | None = None,
        **kwargs: Any,
    ) -> SharcsForSequenceClassification:
        """Put a router and sub-networks into a pretrained encoder.

        Args:
            name_or_path: A name on the hub or a local directory, as for ``from_pretrained``.
            widths: Ascending fractions that end in 1.0.
            router_layer: k; by default the paper's, scaled to the encoder's depth.
            num_labels: Number of classes; or give ``id2label``. By default what the checkpoint says.
            id2label: Class names by index.
            problem_type: As in Hugging Face configurations; by default from the labels' type.
            **kwargs: Passed to ``AutoModelForSequenceClassification.from_pretrained`` (revision, token, dtype, ...).

        Returns:
            The routed network, in evaluation mode. At width 1.0 it computes what the encoder computes, bit for bit.

        Raises:
            InputError: If the settings don't fit the encoder, or its architecture can't be narrowed.
        """
        task: dict[str, Any] = {"problem_type": problem_type} if problem_type else {}
        if id2label is not None:
            task |= {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
        elif num_labels is not None:
            task |= {"num_labels": num_labels}
        hub = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
        encoder_config = AutoConfig.from_pretrained(name_or_path, **task, **hub)
        if isinstance(encoder_config, SharcsConfig):
            raise InputError(
                f"{name_or_path}: is a sharcs model already; load it with from_pretrained, or name a plain encoder"
            )

        def settings(encoder: Any) -> SharcsConfig:
            return SharcsConfig(
                encoder=encoder,
                widths=list(widths),
                router_layer=router_layer,
                id2label=encoder.id2label,
                label2id=encoder.label2id,
                problem_type=encoder.problem_type,
            )

        settings(copy.deepcopy(encoder_config))  # wrong settings are refused before any weights are read
        encoder = AutoModelForSequenceClassification.from_pretrained(name_or_path, config=encoder_config, **kwargs)
        inputs, expected = plain_answer(encoder)
        model = cls(settings(encoder.config), encoder=encoder)
        # As from_pretrained: ready for use, not for training.
        model.train(False)
        try_out(model, inputs, expected)
        return model

    @property
    def tail(self) -> RoutedTail:
        """The routed tail: router, layers k+1..L and sub-networks."""
        return self._tail[0]

    def cost_coefficients(self) -> Tensor:
        """FLOPs as polynomials in the length; see :func:`sharcs.cost.cost_coefficients`."""
        return cost_coefficients(self.encoder, self.tail)

    def continuation_coefficients(self) -> Tensor:
        """FLOPs of escalation; see :func:`sharcs.cost.continuation_coefficients`."""
        return continuation_coefficients(self.encoder, self.tail)

    def prepare_for_inference(self) -> None:
        """Copy the sub-networks into plain layers; see :meth:`RoutedTail.prepare_for_inference`."""
        if self.tail.prepare_for_inference():
            # Counting walks through all modules, which a short text alone would feel.
            self._counted = self.cost_coefficients()

    def set_budget(self, budget: float) -> None:
        """Route so that the mean cost on inputs like those of the calibration is the most within a budget.

        Args:
            budget: Mean FLOPs over the full network's. What was observed decides; for a bound that holds with a
                confidence, run ``sharcs calibrate --budget``.

        Raises:
            InputError: If the model was never calibrated, or its cheapest policy costs more.
        """
        self.config.policy = asdict(policy_for_budget(self.config.calibration, budget))

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Resize the encoder's embeddings; its own configuration holds the size of the vocabulary."""
        return self.encoder.resize_token_embeddings(*args, **kwargs)

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Switch the attention implementation, of the sub-networks too."""
        super().set_attn_implementation(*args, **kwargs)
        self.tail.build_twins(self.encoder.config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        width: float | None = None,
        width_index: Tensor | None = None,
        all_widths: bool = False,
        narrow_only: bool = False,
        trunk_only: bool = False,
        hidden: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SharcsOutput | tuple[Any, ...]:
        """Classify a batch, each input at its own width.

        Args:
            input_ids: ``[batch, tokens]``.
            attention_mask: ``[batch, tokens]``, non-zero where a token is real.
            token_type_ids: ``[batch, tokens]``, for encoders that have them.
            position_ids: ``[batch, tokens]``.
            inputs_embeds: ``[batch, tokens, hidden]`` in place of ``input_ids``.
            labels: Class indices ``[batch]``, or what the problem type takes.
            width: Forces one width for the whole batch, in place of the routing policy.
            width_index: Forces a width for each input: int64 ``[batch]``, indices into ``config.widths``.
            all_widths: Runs every width on every input, layers 1..k once; ``logits`` and ``loss`` are then those of
                the full width.
            narrow_only: With ``all_widths``, leaves the full width out, and layers 1..k without a gradient: what
                trains sub-networks with weights of their own. There are no ``logits`` and no ``loss`` then.
            trunk_only: Ends at the router: the result has ``router_logits``, ``width_index`` and ``hidden``.
            hidden: The ``hidden`` of inputs that ran the trunk, ``[batch, tokens, hidden]``, in place of
                ``input_ids``, with their ``attention_mask``: they continue at ``width``, layers k+1..L and the head.
                They may come from several batches, padded anew with whatever values.
            return_dict: False for a plain tuple.
            **kwargs: Passed to the encoder.

        Returns:
            :class:`SharcsOutput`.

        Raises:
            InputError: If the network has no such width, no width is named to continue at, or hidden states or
                attentions are asked for: inputs of one batch have them in different sizes.
        """
        if kwargs.get("output_hidden_states") or kwargs.get("output_attentions"):
            raise InputError(
                "output_hidden_states, output_attentions: inputs of different widths have none of one shape; "
                "take them from the encoder before it is wrapped"
            )
        sample = input_ids if input_ids is not None else inputs_embeds
        call = RoutingCall(attention_mask, choose=lambda logits: self._choose(logits, attention_mask, sample))
        call.trunk_only = trunk_only or narrow_only
        if hidden is not None:
            if width is None:
                raise InputError("hidden: names no width to continue at; give one with width")
            call.hidden = hidden
            inputs_embeds = self._placeholder(hidden)
        if all_widths:
            call.width_index = len(self.config.widths) - 1
        elif width is not None:
            call.width_index = self.config.index_of(width)
        elif width_index is not None:
            call.width_index = self._checked(width_index, sample)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
        }
        inputs = {name: value for name, value in inputs.items() if value is not None} | kwargs
        escalates = call.width_index is None and self.config.routing_policy.escalates
        if escalates:
            inputs.pop("labels", None)  # the loss is that of the last answer
        with torch.set_grad_enabled(torch.is_grad_enabled() and not narrow_only):
            answers = self._run(call, inputs)
        if narrow_only:
            assert call.hidden is not None
            answers["router_logits"] = self.tail.route(call.hidden, attention_mask)
        if all_widths:
            answers["width_logits"] = self._every_width(call, inputs, answers.get("logits"))
        elif escalates and not trunk_only:
            answers |= self._escalated(call, inputs, answers["logits"], answers["width_index"], labels)
        result = SharcsOutput(**answers)
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return result if wants_dict else result.to_tuple()

    def _run(self, call: RoutingCall, inputs: dict[str, Any]) -> dict[str, Any]:
        """Run the encoder once; what it and the tail found, by the names of :class:`SharcsOutput`."""
        try:
            with call.active():
                outputs = self.encoder(**inputs, return_dict=True)
        except TrunkDone:
            found = {"hidden": call.hidden}
        else:
            found = {"loss": outputs.loss, "logits": outputs.logits}
        return found | {"router_logits": call.router_logits, "width_index": call.width_index}

    def _placeholder(self, hidden: Tensor) -> Tensor:
        """Stand in for the embeddings of inputs that continue, of which the encoder reads the sizes alone."""
        size = int(self.get_input_embeddings().embedding_dim)  # type: ignore[arg-type]
        return hidden.new_zeros(1).expand(*hidden.shape[:2], size)

    def _continue(
        self, call: RoutingCall, inputs: dict[str, Any], width_index: int, rows: Tensor | None = None
    ) -> Tensor:
        """Run another width from the kept output of layer k: ``[rows, labels]``."""
        assert call.hidden is not None
        batch = len(call.hidden)
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        if rows is not None:
            inputs = {name: select_rows(value, rows, batch) for name, value in inputs.items()}
        with call.continued(width_index, rows).active():
            return self.encoder(**inputs, return_dict=True).logits  # type: ignore[no-any-return]

    def _every_width(self, call: RoutingCall, inputs: dict[str, Any], full: Tensor | None) -> Tensor:
        narrow = [self._continue(call, inputs, index) for index in range(len(self.config.widths) - 1)]
        return torch.stack(narrow if full is None else [*narrow, full])

    def _escalated(
        self, call: RoutingCall, inputs: dict[str, Any], logits: Tensor, first: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor | None]:
        """Continue at full width where a sub-network is unsure of its answer."""
        full = len(self.config.widths) - 1
        goes_on = unsure(confidence(logits, self.config.problem_type), first, full, self.config.routing_policy)
        rows = torch.nonzero(goes_on).squeeze(1)
        if len(rows):
            answer = self._continue(call, inputs, full, rows)
            policy, problem_type = self.config.routing_policy, self.config.problem_type
            logits = logits.index_copy(0, rows, blended(answer, logits[rows], policy, problem_type))
        return {
            "loss": None if labels is None else ForSequenceClassificationLoss(labels, logits, self.encoder.config),
            "logits": logits,
            "width_index": first.masked_fill(goes_on, full),
            "first_width_index": first,
        }

    def _checked(self, width_index: Tensor, sample: Tensor | None) -> Tensor:
        count = len(self.config.widths)
        if sample is not None and width_index.shape != sample.shape[:1]:
            raise InputError(
                f"width_index: has shape {list(width_index.shape)} for a batch of {len(sample)}; give one an input"
            )
        if len(width_index) and not 0 <= int(width_index.min()) <= int(width_index.max()) < count:
            raise InputError(f"width_index: has an index outside 0 to {count - 1}; the network has {count} widths")
        return width_index

    def _choose(self, logits: Tensor, attention_mask: Tensor | None, sample: Tensor | None) -> Tensor:
        """Apply the configured policy to the router's logits, with each input's own relative costs."""
        policy = self.config.routing_policy
        if policy.cost_weight == 0:
            return choose_width(logits, logits, policy)
        if attention_mask is not None:
            lengths = (attention_mask != 0).sum(dim=1)
        else:
            assert sample is not None
            lengths = torch.full(sample.shape[:1], sample.shape[1], device=sample.device)
        coefficients = self.cost_coefficients() if self.tail.dense is None else self._counted
        return choose_width(logits, relative_cost(coefficients.to(lengths.device), lengths), policy)


AutoModelForSequenceClassification.register(SharcsConfig, SharcsForSequenceClassification)
