"""Lets `python -m tfvae` run the command line."""

from tfvae.cli import main

if __name__ == "__main__":
    main()
