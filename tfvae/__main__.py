"""The entry point of the command `tfvae` and of `python -m tfvae`."""

import io
import os
import sys
import warnings


def main() -> None:
    """Runs the command line. The log of TensorFlow's C++ shows only errors unless TF_CPP_MIN_LOG_LEVEL is set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # As Python does for stderr: names of files need not be text in the encoding of the output, or in any.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    from tfvae.cli import ending

    # Around the imports too, which take seconds in which a user may press Ctrl-C.
    with ending.in_one_line():
        from tfvae.cli import commands, noise

        warnings.formatwarning = noise.warning_line
        commands.main()


if __name__ == "__main__":
    main()
