"""Distributions that TFP lacks or has only in a form that XLA or TFLite cannot run, for posteriors and priors."""
