"""The same variational autoencoders in tfvae and in what else people write them in, for comparisons in one run."""
