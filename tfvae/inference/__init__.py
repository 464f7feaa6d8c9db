"""Variational inference for a user's own Bayesian model: its joint density, how q is fitted, draws and predictions."""
