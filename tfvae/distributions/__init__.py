"""Distributions that TFP lacks, or has in a form that XLA or TFLite cannot run, for posteriors and priors alike."""
