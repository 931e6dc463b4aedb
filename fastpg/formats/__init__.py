"""Models from elsewhere."""

from fastpg.formats.gymnasium import from_gymnasium

__all__ = ["from_gymnasium"]
