"""Anomalies in a table with text, dates and gaps: train, set a threshold, ask why, export, and ask the exported file.

The last lines do the same with the scikit-learn estimator, which chooses the network and the training itself.
"""

import pathlib
import tempfile

import keras
import numpy as np
import pandas as pd

import tfvae
from tfvae.sklearn import VAEOutlierDetector


def made_orders(rows, seed):
    """Orders, of which those in the shop are of larger amounts; a tenth of the amounts are missing."""
    rng = np.random.default_rng(seed)
    channel = rng.choice(["web", "shop", "phone"], rows, p=[0.6, 0.3, 0.1])
    orders = pd.DataFrame(
        {
            "order_id": np.arange(1000, 1000 + rows),
            "channel": channel,
            "amount": np.exp(rng.normal(np.where(channel == "shop", 5.0, 3.0), 0.4)).round(2),
            "items": rng.negative_binomial(2, 0.3, rows),
            "ordered": pd.Timestamp("2025-01-01") + pd.to_timedelta(rng.integers(0, 365, rows), unit="D"),
        }
    )
    orders.loc[rng.random(rows) < 0.1, "amount"] = np.nan
    return orders


keras.utils.set_random_seed(0)
train, clean, new = made_orders(3000, 0), made_orders(1000, 1), made_orders(300, 2)
# An amount as in the shop, but on the web; a wild number of items; and a year that is wrong.
new.loc[0, ["channel", "amount"]] = ["web", 250.0]
new.loc[1, "items"] = 60
new.loc[2, "ordered"] = pd.Timestamp("2035-03-01")

table = tfvae.data.Table.learn(train)
print(table)
vae = tfvae.VAE.of_table(table, latent_dim=4, hidden=(64,))
vae.compile(keras.optimizers.Adam(3e-3))
vae.fit(train, batch_size=100, epochs=60, verbose=0)
print(vae.calibrate(clean, false_alarm_rate=0.01))

found = vae.detect(new)
nats = pd.DataFrame(table.by_column(found["contributions"]), columns=list(table.kinds))
for row in np.flatnonzero(found["is_anomaly"]):
    reasons = ", ".join(f"{column} {value:.1f}" for column, value in nats.loc[row].nlargest(2).items())
    print(f"row {row}: {found['score'][row]:.1f} nats above a typical row: {reasons}")

with tempfile.TemporaryDirectory() as folder:
    client = tfvae.export.load(tfvae.export.tflite(vae, pathlib.Path(folder) / "orders.tflite"))
    answer = client.detect({"channel": "web", "amount": 250.0, "items": 3, "ordered": "2025-05-31"})
    print(f"the exported file: {answer['score'][0]:.1f} nats, anomaly: {bool(answer['is_anomaly'][0])}")

detector = VAEOutlierDetector(random_state=0).fit(train)
detector.set_threshold(clean, false_alarm_rate=0.01)
rows = np.flatnonzero(detector.predict(new) == -1)
for row, nats in zip(rows, detector.contributions(new.loc[rows]), strict=True):
    print(f"the estimator, row {row}: {[*detector.feature_names_in_, 'kl'][nats.argmax()]}")
