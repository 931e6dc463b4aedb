"""FLINT, loaded when it is first needed."""

from types import ModuleType


def flint() -> ModuleType:
    """The module of python-flint; ImportError with the way to get it where it is absent."""
    try:
        import flint as module
    except ImportError:
        raise ImportError(
            "exact arithmetic needs the package python-flint, which pip install 'fastpg[exact]' brings"
        ) from None
    return module
