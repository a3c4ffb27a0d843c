"""speechdst: train, align, evaluate and export spoken dialogue models in JAX."""

__version__ = "0.1.0"
