"""The routed tail: layers k+1..L at every width, in place of those layers in the encoder's own list."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharcs.encoders.architectures import architecture_of, layers_config
from sharcs.encoders.narrow import map_arguments
from sharcs.model.context import TrunkDone, current_context, select_rows
from sharcs.spec import FIRST, MEAN
from sharcs.subnetworks.base import mean_of_real_tokens
from sharcs.subnetworks.compact import CompactSubnetwork
from sharcs.subnetworks.fast import FastLayers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

    from sharcs.encoders.narrow import Arguments
    from sharcs.model.router import Router
    from sharcs.subnetworks.base import EncoderSubnetwork
    from sharcs.subnetworks.front import FrontSubnetwork

    # A sub-network's index, and the rows of the batch that it runs on; None for all.
    Group = tuple[int, Tensor | None]


class RoutedTail(nn.Module):
    """Route each input after layer k and run layers k+1..L by its sub-network.

    It has no weights: the layers stay registered with the encoder's own list
    (:class:`~sharcs.model.layer_list.RoutedLayerList`), router and sub-networks with the model.

    Args:
        subnetworks: Those that run inside the encoder, the cheapest first, the full network last.
        router: Scores them.
        encoder_config: The full encoder's configuration.
        router_layer: k.
        front: Those that answer before the encoder runs, which stand before the others in every order.
        readout: ``first``, or ``mean``: what the encoder's head finds at the first token.

    Attributes:
        subnetworks: Those inside the encoder, the full network last.
        front: Those before it.
        names: The names of all.
        trunk: Layers 1..k, which run elsewhere; filled by :class:`~sharcs.model.layer_list.RoutedLayerList`.
        arity: What a layer returns, once layer k has shown it; see :func:`~sharcs.encoders.returned.output_arity`.
        fast: The layers prepared for inference, or None.
    """

    def __init__(
        self,
        subnetworks: Sequence[EncoderSubnetwork],
        router: Router,
        encoder_config: PreTrainedConfig,
        router_layer: int,
        front: Sequence[FrontSubnetwork] = (),
        readout: str = FIRST,
    ) -> None:
        super().__init__()
        self.readout = readout
        # In lists and a tuple, so that they aren't registered a second time.
        self.subnetworks = list(subnetworks)
        self.front = list(front)
        self._router = (router,)
        self.names = [*(part.spec.name for part in front), *(part.spec.name for part in subnetworks)]
        self.encoder_config = encoder_config
        self.router_layer = router_layer
        self.hidden_size: int = layers_config(encoder_config).hidden_size
        self.num_heads: int = layers_config(encoder_config).num_attention_heads
        self.trunk: list[nn.Module] = []
        self.arity: int | None = None
        self.fast: FastLayers | None = None

    @property
    def narrow(self) -> list[EncoderSubnetwork]:
        """All inside the encoder but the full network."""
        return self.subnetworks[:-1]

    @property
    def router(self) -> Router:
        """The router."""
        return self._router[0]

    @property
    def layers(self) -> nn.ModuleList | list[nn.Module]:
        """Layers k+1..L of the full network."""
        return self.subnetworks[-1].layers

    def follow(self, attention: str) -> None:
        """Let narrow sub-networks take over another attention implementation."""
        self.fast = None
        compact = [part.inner for part in self.front if isinstance(part, CompactSubnetwork)]
        for subnetwork in (*self.narrow, *compact):
            subnetwork.follow(attention)

    @property
    def is_prepared(self) -> bool:
        """Whether the layers were prepared for inference, with these very weights."""
        fast = self.fast  # once: another thread may drop it
        return fast is not None and fast.are_current()

    def prepare_for_inference(self) -> bool:
        """Bring all layers into a form that runs fast, unless that was done with these very weights.

        Passes in evaluation mode without gradients then run it (:class:`~sharcs.subnetworks.fast.FastLayers`), and
        are rounded otherwise. It costs the memory of the layers once more, so only who asks for it has it. Training,
        another device or dtype, a loaded state, another attention implementation and any other change of a weight
        drop it, and the modules run again, on slices of the shared weights.

        Returns:
            Whether it was made anew.
        """
        if self.is_prepared:
            return False
        self.fast = FastLayers(self.trunk, self.subnetworks, self.encoder_config, self.front)
        return True

    def usable_fast_layers(self) -> FastLayers | None:
        """Return what was made for inference, if a pass may run it now."""
        fast = self.fast  # once: another thread may drop it
        if fast is None or torch.is_grad_enabled():
            return None
        if self.training or any(subnetwork.training for subnetwork in (*self.narrow, *self.front)):
            return None
        if not fast.are_current():
            self.fast = None
            return None
        return fast

    def train(self, mode: bool = True) -> RoutedTail:
        """Drop what was made for inference where training begins."""
        super().train(mode)
        if mode:
            self.fast = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was made for inference out of copies, which make their own when they are asked to."""
        return self.__dict__ | {"fast": None}

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Drop the copies, which are no submodules and would stay behind when the weights move."""
        self.fast = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Drop the copies: loading may put other tensors in the weights' places, whose versions nobody counts."""
        self.fast = None
        super()._load_from_state_dict(*args, **kwargs)

    def run(self, index: int, hidden: Tensor, arguments: list[Arguments]) -> Tensor:
        """Run one sub-network on a whole batch: ``[batch, tokens, hidden]`` in and out.

        Args:
            index: Of the sub-network.
            hidden: Output of layer k.
            arguments: What the encoder hands to each layer besides, by position and by name.
        """
        subnetwork = self.subnetworks[index]
        fast = current_context().fast
        return subnetwork.run(hidden, arguments, None if fast is None else fast.layers[index])

    def route(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Run the router on the output of layer k: ``[batch, tokens, hidden]`` to logits ``[batch, widths]``.

        What stands in front of the encoder is none of its choices: −∞.
        """
        if attention_mask is None:
            attention_mask = torch.ones(hidden.shape[:2], device=hidden.device)
        scores: Tensor = self.router(hidden, attention_mask)
        if not self.front:
            return scores
        # Not by padding: OpenVINO can't pad with it what comes of a product in int8.
        never = scores.new_full((scores.shape[0], len(self.front)), -torch.inf)
        return torch.cat([never, scores], dim=1)

    def forward(self, hidden: Tensor, arguments: list[Arguments]) -> Tensor:
        """Route, split the batch by sub-network, run each group and scatter the results back.

        Args:
            hidden: Output of layer k, ``[batch, tokens, hidden]``; not read in a pass that resumes.
            arguments: What the encoder hands to each layer besides, by position and by name.

        Returns:
            The last layers' outputs, ``[batch, tokens, hidden]``.
        """
        context = current_context()
        if context.hidden is not None:
            hidden = context.hidden
        else:
            context.hidden = hidden
            if context.ends_at_router:
                raise TrunkDone
            if context.needs_router:
                context.router_logits = self.route(hidden, context.attention_mask)
            if context.choose is not None:
                assert context.router_logits is not None
                context.width_index = context.choose(context.router_logits, hidden, context.attention_mask)
        index = context.width_index
        assert index is not None
        inside = index - len(self.front)
        groups: list[Group] = [(inside, None)] if isinstance(inside, int) else self._groups(inside)
        context.normalise = functools.partial(self._normalise, groups)
        states = self._run_groups(groups, hidden, arguments)
        return self._mean_first(states, context.attention_mask) if self.readout == MEAN else states

    def _mean_first(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Put the mean of the real tokens in the place of the first one, which is what heads read."""
        mean = mean_of_real_tokens(states, attention_mask)
        return torch.cat([mean.unsqueeze(1), states[:, 1:]], dim=1)

    def _groups(self, width_index: Tensor) -> list[Group]:
        """Group inputs by sub-network, the cheapest first: one sort, and one wait for the groups' sizes."""
        if len(width_index) == 1:
            return [(int(width_index), None)]
        order = torch.argsort(width_index, stable=True)
        counts = torch.bincount(width_index, minlength=len(self.subnetworks)).tolist()
        if max(counts) == len(width_index):
            return [(counts.index(len(width_index)), None)]
        return [(index, rows) for index, rows in enumerate(order.split(counts)) if len(rows)]

    def _run_groups(self, groups: list[Group], hidden: Tensor, arguments: list[Arguments]) -> Tensor:
        without_rows = architecture_of(self.encoder_config).hidden_arguments
        outputs = []
        for index, rows in groups:
            if rows is None:
                return self.run(index, hidden, arguments)
            selection = _RowSelection(rows, len(hidden), without_rows)
            of_rows = [map_arguments(full_arguments, selection) for full_arguments in arguments]
            outputs.append(self.run(index, hidden[rows], of_rows))
        order = torch.cat([rows for _, rows in groups if rows is not None])
        return torch.cat(outputs)[torch.argsort(order)]

    def _normalise(self, groups: list[Group], hidden: Tensor, full: Tensor) -> Tensor:
        """Put each sub-network's own final norm in the place of the full network's.

        Args:
            groups: What ran.
            hidden: What the encoder's final norm was handed, ``[batch, tokens, hidden]``.
            full: What it made of it.

        Returns:
            ``full``, with the rows of sub-networks that have a norm of their own replaced.
        """
        for index, rows in groups:
            narrow = self.subnetworks[index].normalise(hidden if rows is None else hidden[rows])
            if narrow is not None:
                full = narrow if rows is None else full.index_copy(0, rows, narrow)
        return full


class _RowSelection:
    """Take some inputs' rows of what each layer is handed, once of what all of them are handed alike."""

    def __init__(self, rows: Tensor, batch: int, without_rows: tuple[str, ...]) -> None:
        self.rows = rows
        self.batch = batch
        self.without_rows = without_rows
        self.taken: dict[int, Any] = {}

    def __call__(self, name: str | int, value: Any) -> Any:
        if name in self.without_rows:
            return value
        if id(value) not in self.taken:
            self.taken[id(value)] = select_rows(value, self.rows, self.batch)
        return self.taken[id(value)]
