"""The models of examples: `VariationalModel`, which trains them all, and the autoencoders."""
