"""Several devices and several machines: strategies, what crosses replicas, and workers that meet or are lost."""
