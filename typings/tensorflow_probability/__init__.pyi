# TFP ships no types, and loads its modules when they are first used: a type checker must be told that they are modules.
from typing import Any

from tensorflow_probability import bijectors as bijectors
from tensorflow_probability import distributions as distributions
from tensorflow_probability import mcmc as mcmc

def __getattr__(name: str) -> Any: ...
