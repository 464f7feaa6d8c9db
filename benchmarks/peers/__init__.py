"""The same variational autoencoders in tfvae, plain Keras, PyTorch, JAX and Pythae, for comparison in one run."""
