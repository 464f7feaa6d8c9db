"""Lets tools that still call setup.py build tfvae; everything is declared in pyproject.toml."""

from setuptools import setup

setup()
