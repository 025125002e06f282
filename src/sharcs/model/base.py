"""What routed classifiers of every kind of input share: a router and sub-networks inside a Hugging Face encoder."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import nn
from transformers import AutoConfig, PreTrainedModel

from sharcs.config import SharcsConfig, policy_for_budget
from sharcs.encoders.architectures import architecture_of, body_of, layers_config, skipped_modules
from sharcs.encoders.layers import check_architecture, find_layers, in_order, replace_layers
from sharcs.errors import EncoderError, InputError
from sharcs.formats import renamed_weights
from sharcs.model.card import write_card
from sharcs.model.first_run import plain_answer, read_by_mean, try_out, try_out_own
from sharcs.model.layer_list import RoutedLayerList, bypass_when_resuming, shrink_when_resuming, use_narrow_final_norm
from sharcs.model.passes import RoutedPasses
from sharcs.model.router import Router
from sharcs.model.tail import RoutedTail
from sharcs.spec import FIRST, MEAN, OWN, front_specs
from sharcs.stored import class_names
from sharcs.subnetworks.build import make_front, make_subnetwork
from sharcs.tasks.classification import task_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedConfig

    from sharcs.tasks.base import BaseTask

# Of the examples that an encoder is tried on.
EXAMPLE_TOKENS = 6
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


def _routed_classes(of: type[RoutedModel] | None = None) -> list[type[RoutedModel]]:
    """List the classes that name their plain class: those that can be used, and no user's subclasses of them."""
    found: list[type[RoutedModel]] = []
    for own in (of or RoutedModel).__subclasses__():
        found += [own] * ("plain_class" in vars(own)) + _routed_classes(own)
    return found


class RoutedModel(RoutedPasses):
    """A classifier whose layers after the router run at a width of each input's own (paper, section 3).

    A subclass says what kind of input it is: which Auto class makes the plain classifier, how many tokens an input
    has and which of them are real.

    Where an encoder skips whole layers at random in training (LayerDrop), it doesn't any more: ``layerdrop`` of its
    configuration is set to 0, since which layers an input runs is the router's to say.

    Args:
        config: The routed network's configuration.
        encoder: The full network with its task head, taken over as it is; by default one with random weights.

    Raises:
        InputError: If the encoder's architecture can't be narrowed, or it is for another kind of input.
    """

    base_model_prefix = "encoder"
    # The loss is a mean over the batch; the trainer divides by the accumulation steps.
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    plain_class: ClassVar[Any]  # of the plain classifiers that it can route

    def training_task(self, rows: Any, class_weights: str | Sequence[float] | None) -> BaseTask:
        """Find out what training on some rows minimises; see :func:`sharcs.tasks.classification.task_of`."""
        return task_of(self.config, rows, class_weights)

    def __init__(self, config: SharcsConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        is_wrapped = encoder is not None
        if encoder is None:
            self._check_kind(config.encoder)  # type: ignore[arg-type]
            # Where several classes share a configuration, transformers looks for its name in there.
            config.encoder.architectures = config.encoder.architectures or []  # type: ignore[union-attr]
            self._check_task(config)
            encoder = self.plain_class.from_config(config.encoder)
        self.encoder: PreTrainedModel = encoder
        config.encoder = self.encoder.config
        if getattr(config.encoder, "layerdrop", 0):
            config.encoder.layerdrop = 0.0
        check_architecture(self.encoder)
        architecture = architecture_of(self.encoder.config)
        body = body_of(self.encoder)
        modules = find_layers(self.encoder)
        layers = in_order(modules, self.encoder.config)
        k = int(config.router_layer or 0)
        final_norm = None if architecture.final_norm is None else body.get_submodule(architecture.final_norm)
        size = layers_config(self.encoder.config).hidden_size
        specs = config.specs
        inside = [spec for spec in specs if not spec.is_front]
        if len(inside) < len(specs) and self.head_per_token:
            raise InputError("front: answers with one class for each input, and this model with more; leave it out")
        if config.readout == MEAN:
            self._check_readout()
        self.router = Router(size, int(config.router_hidden_size or 0), len(inside))
        subnetworks = [make_subnetwork(spec, layers[k:], self.encoder, final_norm) for spec in inside]
        front = [make_front(spec, layers, self.encoder) for spec in specs if spec.is_front]
        self.subnetworks = nn.ModuleDict({part.spec.name: part for part in front})
        self.subnetworks.update({part.spec.name: part for part in subnetworks})
        reference = next(layers[-1].parameters())
        for part in (self.router, self.subnetworks):
            part.to(device=reference.device, dtype=reference.dtype)
        self._tail = [RoutedTail(subnetworks, self.router, self.encoder.config, k, front, config.readout)]
        repeated = architecture.repeated_layers is not None
        replace_layers(self.encoder, modules, RoutedLayerList(layers, self._tail[0], repeated=repeated))
        if final_norm is not None:
            use_narrow_final_norm(final_norm)
        for name, returned in skipped_modules(self.encoder).items():
            bypass_when_resuming(body.get_submodule(name), returned)
        for name, module in body.named_children():
            if name == "embeddings" and self.main_input_name == "input_ids":
                shrink_when_resuming(module)
        self.post_init()  # type: ignore[no-untyped-call]
        if is_wrapped:
            try_out_own(self)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model, of this version's format or an earlier one; see ``PreTrainedModel.from_pretrained``."""
        renamed: dict[str, str] = {}
        if pretrained_model_name_or_path is not None:
            hub = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
            content, _ = cls.config_class.get_config_dict(pretrained_model_name_or_path, **hub)
            renamed = renamed_weights(content)
        if not renamed:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, key_mapping=renamed, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # transformers would save it again under the names that the file has.
        model._weight_conversions = None
        return loaded

    def _check_readout(self) -> None:
        """Refuse the mean in the first token's place where the head doesn't read that."""
        pooling = getattr(self.encoder.config, "classifier_pooling", "cls")
        if self.head_per_token or self.main_input_name != "input_ids" or pooling != "cls":
            raise InputError(
                f"readout {MEAN}: {type(self.encoder).__name__} doesn't read the first token; leave it out"
            )

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the router as the encoder initialises its own modules."""
        self.encoder._init_weights(module)

    @classmethod
    def _check_kind(cls, encoder_config: PreTrainedConfig) -> None:
        """Refuse an encoder of another kind of input, or one that has no head for this task."""
        kind = type(encoder_config)
        if kind in cls.plain_class._model_mapping or getattr(encoder_config, "auto_map", None):
            return
        fitting = [own for own in _routed_classes() if kind in own.plain_class._model_mapping]
        advice = f"use {' or '.join(own.__name__ for own in fitting)}" if fitting else "choose another encoder"
        if any(own.input_modalities == cls.input_modalities for own in fitting):
            # Another class would be for another task.
            advice = f"transformers has no {cls.plain_class.__name__} of it, choose another encoder"
        raise EncoderError(f"{encoder_config.model_type}: is no encoder for {cls.__name__}; {advice}")

    @classmethod
    def _check_task(cls, config: SharcsConfig) -> None:
        """Refuse the model of another task: its body would be loaded, under a head of random weights."""
        for own in _routed_classes():
            if own.__name__ in (config.architectures or ()) and not (issubclass(cls, own) or issubclass(own, cls)):
                raise EncoderError(
                    f"the model is a {own.__name__} and no {cls.__name__}; load it with sharcs.{own.__name__}, "
                    "from Python"
                )

    @classmethod
    def from_encoder(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        widths: Sequence[float] = (0.25, 1.0),
        front: Sequence[str | Mapping[str, Any]] = (),
        pairs: bool = False,
        readout: str = FIRST,
        router_layer: int | None = None,
        weights: str = OWN,
        num_labels: int | None = None,
        id2label: dict[int, str] | list[str] | None = None,
        problem_type: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Put a router and sub-networks into a pretrained encoder.

        Args:
            name_or_path: A name on the hub or a local directory, as for ``from_pretrained``.
            widths: Ascending fractions that end in 1.0.
            front: Before the encoder, the cheapest first: ``lexical``, ``recurrent``, ``compact``, or descriptions.
            pairs: Whether inputs are pairs of texts, told apart by ``token_type_ids``: those in front compare them.
            readout: With ``first`` the encoder's head reads what it always reads, of many the first token; with
                ``mean`` it finds the tokens' mean there: better where it was trained for mean pooling.
            router_layer: k; by default the paper's, scaled to the encoder's depth.
            weights: ``own`` gives each narrow sub-network weights of its own (the recipe ``sharcs+``), ``shared``
                slices of the full network's (the paper's).
            num_labels: Number of classes; or give ``id2label``. By default what the checkpoint says.
            id2label: Class names by index.
            problem_type: As in Hugging Face configurations; by default from the labels' type.
            **kwargs: Passed to the Auto class of the plain classifier: revision, token, dtype, ...

        Returns:
            The routed network, in evaluation mode. At width 1.0 it computes what the encoder computes, bit for bit.

        Raises:
            InputError: If the settings don't fit the encoder, or its architecture can't be narrowed.
        """
        task: dict[str, Any] = {"problem_type": problem_type} if problem_type else {}
        if id2label is not None:
            id2label = class_names(id2label)
            task |= {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
        elif num_labels is not None:
            task |= {"num_labels": num_labels}
        hub = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
        encoder_config = AutoConfig.from_pretrained(name_or_path, **task, **hub)
        if isinstance(encoder_config, SharcsConfig):
            raise InputError(
                f"{name_or_path}: is a sharcs model already; load it with from_pretrained, or name a plain encoder"
            )
        cls._check_kind(encoder_config)

        def settings(encoder: Any) -> SharcsConfig:
            return SharcsConfig(
                encoder=encoder,
                widths=list(widths),
                readout=readout,
                front=[spec.to_dict() for spec in front_specs(encoder, front, pairs=pairs)],
                router_layer=router_layer,
                weights=weights,
                id2label=encoder.id2label,
                label2id=encoder.label2id,
                problem_type=encoder.problem_type,
            )

        # Wrong settings are refused before any weights are read.
        cls._check_task(settings(copy.deepcopy(encoder_config)))
        encoder = cls.plain_class.from_pretrained(name_or_path, config=encoder_config, **kwargs)
        inputs = cls.example(encoder)
        with read_by_mean(encoder) if readout == MEAN else contextlib.nullcontext():
            expected = plain_answer(encoder, inputs, cls.answer_of)
        model = cls(settings(encoder.config), encoder=encoder)
        # As from_pretrained: ready for use, not for training.
        model.train(False)
        try_out(model, inputs, expected)
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save the model, and a model card beside it; see ``PreTrainedModel.save_pretrained``."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            write_card(self, save_directory)

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        """Upload the model card of this model; ``push_to_hub`` has written a general one over it."""
        write_card(self, working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def prepare_for_inference(self) -> None:
        """Bring all layers into a form that runs fast; see :meth:`RoutedTail.prepare_for_inference`."""
        if not self.tail.is_prepared:
            # Counting walks through all modules, which a short text alone would feel. It comes first: other threads
            # read it as soon as the layers are there.
            self._counted = self.cost_coefficients()
            self.tail.prepare_for_inference()

    def set_budget(self, budget: float) -> None:
        """Route so that the mean cost on inputs like those of the calibration is the most within a budget.

        Args:
            budget: Mean FLOPs over the full network's. What was observed decides; for a bound that holds with a
                confidence, run ``sharcs calibrate --budget``.

        Raises:
            InputError: If the model was never calibrated, or its cheapest policy costs more.
        """
        self.config.policy = policy_for_budget(self.config.calibration, budget).to_dict()

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Switch the attention implementation, of the sub-networks too."""
        super().set_attn_implementation(*args, **kwargs)
        self.tail.follow(str(layers_config(self.encoder.config)._attn_implementation))
