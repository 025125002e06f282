"""The same routed network with weights of its own for every narrow width."""

from sharcs import SharcsConfig
from sharcs.benchmark.contestants import plain_network


def with_own_weights(model):
    """Build a copy of a model whose narrow sub-networks have weights of their own, cut out of its full network."""
    encoder = plain_network(model)
    config = SharcsConfig(
        encoder=encoder.config,
        widths=model.config.widths,
        router_layer=model.config.router_layer,
        router_hidden_size=model.config.router_hidden_size,
        weights="own",
        policy=model.config.policy,
        id2label=model.config.id2label,
        label2id=model.config.label2id,
        problem_type=model.config.problem_type,
    )
    copied = type(model)(config, encoder=encoder)
    copied.router.load_state_dict(model.router.state_dict())
    return copied.train(model.training)


def own_parameters(model):
    """List the parameters of the narrow sub-networks."""
    return [parameter for subnetwork in model.tail.narrow for parameter in subnetwork.parameters()]
