"""How much of what RL did to a language model sits in the singular values, how much in rotation."""

__version__ = "0.1.0"
