"""How a `fit` runs: what its arguments mean, the plan that follows from them, and the loop of the steps."""
