"""Vectors of tokens: what an encoder says about each one alone, by principal components (as model2vec takes them)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TOKENS_AT_ONCE = 1024
ROWS_LOOKED_AT = 100  # for the special tokens that all texts begin and end with


@torch.no_grad()
def token_vectors(
    states_of: Callable[[Tensor], Tensor], count: int, size: int, rows: Any, device: torch.device | None = None
) -> Tensor:
    """Ask a network about every token alone.

    Args:
        states_of: The network, from tokens ``[batch, tokens]`` to states ``[batch, tokens, hidden]``.
        count: How many tokens there are.
        size: Numbers a token.
        rows: Tokenised texts: what all of them begin and end with stands around the token.
        device: Where the network is.

    Returns:
        float32 ``[vocabulary, size]``, of standard deviation 1 over all.
    """
    before, behind = _around(rows)
    parts = []
    for start in range(0, count, TOKENS_AT_ONCE):
        ids = torch.arange(start, min(count, start + TOKENS_AT_ONCE), device=device).unsqueeze(1)
        around = [[torch.full_like(ids, token) for token in tokens] for tokens in (before, behind)]
        tokens = torch.cat([*around[0], ids, *around[1]], dim=1)
        parts.append(states_of(tokens).float().mean(1))
    return principal_components(torch.cat(parts), size)


def token_shares(rows: Any, count: int) -> Tensor:
    """Count each token of tokenised texts: its share of all, float32 ``[count]``."""
    found = torch.zeros(count, dtype=torch.float64)
    for index in range(len(rows)):
        ids = torch.as_tensor(rows[index]["input_ids"])
        found += torch.bincount(ids, minlength=count)
    return (found / found.sum().clamp(min=1)).float()


def principal_components(vectors: Tensor, size: int) -> Tensor:
    """Project vectors ``[count, dimensions]`` to their first components, of standard deviation 1 over all."""
    centred = vectors.double() - vectors.double().mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
    components = centred @ directions[:, -size:].flip(1)
    scaled: Tensor = components / components.std()
    return scaled.float()


def _around(rows: Any) -> tuple[list[int], list[int]]:
    """Find the tokens that all texts begin and end with: one each, or none."""
    looked = [list(rows[index]["input_ids"]) for index in range(min(ROWS_LOOKED_AT, len(rows)))]
    looked = [ids for ids in looked if ids]
    firsts, lasts = {ids[0] for ids in looked}, {ids[-1] for ids in looked}
    if len(looked) < 2 or len(firsts) > 1 or len(lasts) > 1:
        return [], []
    return list(firsts), list(lasts)
