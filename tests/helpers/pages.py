"""The Python of a page, made to run in a short time: what is tested is that it runs, not how well its models train."""

import re

_SHORT = """
import keras
from tfvae.export import verification

keras.config.set_max_epochs(1)
latency = verification._latency
verification._latency = lambda call, x, calls: latency(call, x, 2)
"""


def python(text):
    """Every block of Python in a page, as one program, with a single epoch of each `fit` and few steps."""
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return _SHORT + re.sub(r"\bnum_steps=\d+", "num_steps=5", "\n".join(blocks)) if blocks else ""
