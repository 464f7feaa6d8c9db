"""Rows of a table with every kind of column, and a model of it."""

import keras
import numpy as np
import pandas as pd

import tfvae
from tfvae.data import Table


def frame(rows=400, seed=0):
    """Numbers by each transformation and with a spike, a count, bools, categories, dates, gaps and unused columns."""
    rng = np.random.default_rng(seed)
    made = pd.DataFrame(
        {
            "order_id": np.arange(1000, 1000 + rows),
            "height": rng.normal(170, 10, rows).round(1),
            "amount": np.exp(rng.normal(3, 1, rows)).round(2),
            "return": rng.standard_t(1.5, rows).round(4),
            "discount": np.where(rng.random(rows) < 0.6, 0, rng.gamma(2, 5, rows).round(2)),
            "items": rng.negative_binomial(2, 0.2, rows) + 1,
            "gift": rng.random(rows) < 0.3,
            "channel": rng.choice(["web", "shop", "phöne"], rows, p=[0.6, 0.3, 0.1]),
            "rating": rng.choice([1.0, 2.5, 4.0], rows),
            "order time": pd.Timestamp("2021-01-01") + pd.to_timedelta(rng.integers(0, 94_608_000, rows), unit="s"),
            "shipped": (pd.Timestamp("2023-02-01") + pd.to_timedelta(rng.integers(0, 300, rows), unit="D")).strftime(
                "%Y-%m-%d"
            ),
            "country": "DE",
            "note": [f"note {number}" for number in rng.permutation(10 * rows)[:rows]],
        }
    )
    if seed == 0:
        made.loc[:1, "channel"] = "fax"
    for name in ("height", "discount", "channel", "shipped", "rating"):
        made.loc[rng.random(rows) < 0.1, name] = np.nan if made[name].dtype.kind == "f" else None
    return made


def held_out():
    """Rows beyond the range of the data, of an unknown category, and with missing values."""
    rows = frame(12, seed=1)
    rows.loc[0, ["channel", "rating"]] = ["pigeon", 7.0]
    rows.loc[1, ["amount", "height", "return"]] = [9999.0, -50.0, 1234.5]
    rows.loc[2, "order time"] = pd.Timestamp("2031-12-31 23:59:59")
    rows.loc[3, ["shipped", "items"]] = ["1999-02-28", 500]
    used = [name for name in rows.columns if name not in ("gift", "items")]
    rows = rows.astype({"gift": object, "items": object})
    rows.loc[4, [*used, "gift", "items"]] = None
    return rows


def table_vae(kinds=None):
    """A model of the table, not trained."""
    keras.utils.set_random_seed(0)
    return tfvae.VAE.of_table(Table.learn(frame(), kinds=kinds), latent_dim=3, hidden=(16,))
