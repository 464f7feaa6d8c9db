"""`tfvae train` on several machines under Ray, which starts the workers, and starts all again when one is lost.

    pip install 'tfvae[ray]'
    python examples/ray_cluster.py --workers 2 "/shared/*.tfrecord" --name big --runs /shared/runs

All arguments but --workers are those of `tfvae train`; the folders must be on storage that all machines share.
"""

import argparse

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer

from tfvae.cli.commands import main


def train(config: dict) -> None:
    """Runs in each worker. Ray has set TF_CONFIG; --resume makes no difference unless the training was interrupted."""
    main(["train", *config["arguments"], "--strategy", "multi_worker", "--resume"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    known, arguments = parser.parse_known_args()
    TensorflowTrainer(
        train,
        train_loop_config={"arguments": arguments},
        scaling_config=ScalingConfig(num_workers=known.workers),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=100)),
    ).fit()
