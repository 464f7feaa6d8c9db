"""Training on several devices and machines: strategies, exchange between replicas, start and restart of workers."""
