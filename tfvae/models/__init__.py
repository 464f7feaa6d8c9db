"""The models: `VariationalModel`, the base class of all of them, and the autoencoders."""
