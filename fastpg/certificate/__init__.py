"""Rigorous a-posteriori bounds on every number of an evaluation."""

from fastpg.certificate.bounds import ErrorBounds

__all__ = ["ErrorBounds"]
