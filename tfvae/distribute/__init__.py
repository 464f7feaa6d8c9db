"""Training on several devices and machines: strategies, and exchange between replicas."""
