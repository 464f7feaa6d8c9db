"""Trains the networks that ship as `tfvae.evaluation.digit_features`, and says how many digits they recognise.

    python benchmarks/digit_features.py                    # of 8 x 8 pixels, on scikit-learn's digits: half a minute
    python benchmarks/digit_features.py --mnist mnist.npz  # of 28 x 28 pixels, on MNIST: some minutes

Each writes `tfvae/evaluation/digits_SIDE.npz`, the weights of the features in half precision, without the classifier.
The features are scaled to a mean square of 1 over the training data, which the kernel of the kernel distance suits.
The training data are the first 1500 of scikit-learn's digits, or those of MNIST, moved by up to a tenth of their side.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

from tfvae.evaluation import digits

FOLDER = Path(digits.__file__).parent


def data(mnist: Path | None) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The pictures [N, side, side, 1], from 0 to 1, and digits [N], for training and for testing."""
    if mnist is None:
        x, y = load_digits(return_X_y=True)
        x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
        return (x[:1500], y[:1500]), (x[1500:], y[1500:])
    with np.load(mnist) as arrays:
        parts = [(arrays[f"x_{part}"][..., np.newaxis], arrays[f"y_{part}"]) for part in ("train", "test")]
    train, test = (((x / 255).astype("float32"), y) for x, y in parts)
    return train, test


def main() -> None:
    """Trains, writes the weights, and prints the accuracy with the weights as they are in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="an .npz file with x_train, y_train, x_test and y_test")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder of the weights")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    (x, y), test = data(options.mnist)
    side = x.shape[1]
    network = digits.layers((side, side, 1), side)
    moved = keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant")
    head = [keras.layers.Activation("gelu"), keras.layers.Dropout(0.3), keras.layers.Dense(10)]
    classifier = keras.Sequential([keras.Input((side, side, 1)), moved, network, *head])
    rate = keras.optimizers.schedules.CosineDecay(2e-3, options.steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.AdamW(rate), loss, metrics=["accuracy"])
    batch_size = 128
    classifier.fit(x, y, batch_size, epochs=max(1, options.steps * batch_size // len(x)), verbose=2)
    scale = float(np.sqrt(np.mean(network.predict(x, verbose=0) ** 2)))
    network.layers[-1].set_weights([each / scale for each in network.layers[-1].get_weights()])
    weights = [each.astype("float16") for each in network.get_weights()]
    path = options.output / f"digits_{side}.npz"
    np.savez_compressed(path, *weights)
    network.set_weights([each.astype("float32") for each in weights])
    scaled = keras.Sequential([keras.Input((side, side, 1)), network, keras.layers.Rescaling(scale), *head])
    scaled.compile(loss=loss, metrics=["accuracy"])
    accuracy = scaled.evaluate(*test, verbose=0)[1]
    count = sum(each.size for each in weights)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {count} weights, accuracy {accuracy:.4f} of {len(test[0])}")


if __name__ == "__main__":
    main()
