"""What a user would otherwise write in JAX and PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np


def jax_gradient(P: Any, r: Any, gamma: float, mu: Any, logits: Any, *, mapped: bool = False) -> Callable[[], Any]:
    """The return of one problem, or of each along the first axis, differentiated and compiled by JAX in 64 bits.

    Its arrays are made beforehand.
    """
    import jax
    import jax.numpy as jnp

    def expected_return(P: Any, r: Any, theta: Any) -> Any:
        pi = jax.nn.softmax(theta)
        system = jnp.eye(mu.size) - gamma * jnp.einsum("sa,sak->sk", pi, P)
        return mu @ jnp.linalg.solve(system, (pi * r).sum(axis=1))

    gradient = jax.grad(expected_return, argnums=2)
    compiled = jax.jit(jax.vmap(gradient) if mapped else gradient)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (P, r, logits)]

    def run() -> Any:
        with jax.enable_x64(True):
            return compiled(*arrays).block_until_ready()

    return run


def torch_gradient(P: Any, r: Any, gamma: float, mu: Any, logits: Any) -> Callable[[], Any]:
    """The return, differentiated by PyTorch in 64 bits."""
    import torch

    law, reward, start = (torch.from_numpy(np.array(x)) for x in (P, r, mu))

    def run() -> Any:
        theta = torch.from_numpy(np.array(logits)).requires_grad_()
        pi = torch.softmax(theta, dim=1)
        system = torch.eye(start.numel(), dtype=torch.float64) - gamma * torch.einsum("sa,sak->sk", pi, law)
        (start @ torch.linalg.solve(system, (pi * reward).sum(dim=1))).backward()
        return theta.grad.numpy()

    return run
