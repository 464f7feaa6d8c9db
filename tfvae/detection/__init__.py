"""Anomaly detection: from scores in nats to decisions, and what a calibrated model stores for them."""

from tfvae._lazy import lazy_attributes

__all__ = ["Decision", "StepDecision", "Threshold", "threshold"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "tfvae.detection.decision": ["Decision"],
        "tfvae.detection.step_decision": ["StepDecision"],
        "tfvae.detection.thresholds": ["Threshold", "threshold"],
    },
)
