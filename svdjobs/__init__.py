"""Measure how much of RL's effect on a language model is in the singular values of its weights."""

__version__ = "0.1.0"
