"""Checkable causal claims about mixture-of-experts language models."""

__all__ = ["__version__"]

__version__ = "0.1.0"
