"""Variational inference on a Bayesian model of the user's own: what it is, how q is found, and what comes out."""
