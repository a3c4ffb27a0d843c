"""speechdst: train, align, evaluate and export spoken dialogue models in JAX."""

__version__ = "0.1.0"


def load(folder):
    """The tracker of an exported model: see `speechdst.api`."""
    from speechdst.api import load

    return load(folder)
