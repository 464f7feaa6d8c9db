"""The entry of the command `tfvae` and of `python -m tfvae`."""

import os


def main() -> None:
    """Runs the command line, with TensorFlow's own log kept to warnings unless the environment says otherwise."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tfvae.cli import commands

    commands.main()


if __name__ == "__main__":
    main()
