"""Errors that a caller can do something about."""


class NoDerivative(ValueError):
    """Autograd finds no path from the images through a purifier, so that only an approximate gradient can be taken."""
