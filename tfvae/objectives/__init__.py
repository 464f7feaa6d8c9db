"""Objectives: what training maximises, a function of the terms of the bound with one value for each example.

An objective is immutable: training compiles it into a graph, where a later change would have no effect.
"""

from tfvae.objectives.adversarial import Adversarial, CriticObjective, FactorVAE
from tfvae.objectives.aggregate import DIPVAE, MMD, BetaTCVAE
from tfvae.objectives.elbo import ELBO, Capacity, FreeBits
from tfvae.objectives.importance_weighted import CIWAE, IWAE, MIWAE, PIWAE, Renyi
from tfvae.objectives.objective import Objective
from tfvae.objectives.regularized import RAE

__all__ = [
    "CIWAE",
    "DIPVAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "MMD",
    "PIWAE",
    "RAE",
    "Adversarial",
    "BetaTCVAE",
    "Capacity",
    "CriticObjective",
    "FactorVAE",
    "FreeBits",
    "Objective",
    "Renyi",
]
