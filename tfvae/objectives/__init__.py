"""What is maximised: a function of the terms of the bound, one value for each example.

An objective is immutable: training compiles it into a graph, where a later change would have no effect.
"""

from tfvae.objectives.elbo import ELBO
from tfvae.objectives.importance_weighted import IWAE
from tfvae.objectives.objective import Objective

__all__ = ["ELBO", "IWAE", "Objective"]
