"""The norm of gradients that lie on several ranks."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from autopipe.runtime.peers import Peers


def clip_over_ranks(
    own: Mapping[str, nn.Parameter], order: Sequence[str], peers: Peers, max_norm: float, norm_type: float
) -> torch.Tensor:
    """Clip the norm of the gradients of all ranks together.

    The norm is that of the norms of the parameters in the model's order, as
    ``torch.nn.utils.clip_grad_norm_`` computes it, so that it does not depend on the number of ranks.

    Args:
        own: FQN -> parameter, of those that this rank owns.
        order: FQNs of all parameters.
        peers: The ranks.
        max_norm: The norm that they have at most afterwards.
        norm_type: Of which p-norm; may be infinity.

    Returns:
        The norm before, the same on every rank.
    """
    norms = {
        fqn: torch.linalg.vector_norm(parameter.grad, norm_type).cpu()
        for fqn, parameter in own.items()
        if parameter.grad is not None
    }
    answers = peers.gather_any(pickle.dumps(norms), "clip_grad_norm_")
    everywhere = {fqn: norm for answer in answers for fqn, norm in pickle.loads(answer).items()}
    found = [everywhere[fqn] for fqn in order if fqn in everywhere]
    total = torch.linalg.vector_norm(torch.stack(found), norm_type) if found else torch.tensor(0.0)
    nn.utils.clip_grads_with_norm_(own.values(), max_norm, total)
    return total
