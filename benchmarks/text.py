"""How well an AutoregressiveVAE models text, beside a plain GRU language model of the same size.

    python benchmarks/text.py [--texts english smiles] [--epochs 30] [--output PATH]

The texts:

- english: the lines of 20 to 72 characters of the help topics that ship with Python (`pydoc_data.topics`), some 5,000;
- smiles: 6,000 molecules that `molecules` below draws, each with a taste of its own for atoms, rings and branches.

A tenth is for validation and a tenth for the test. The methods, which have the same layers from the step before to the
logits, but for those that read z:

- gru: the language model, without z;
- plain: the AutoregressiveVAE, trained as any VAE is;
- recipe: the same with what is recommended against a collapse of KL(q || p): `KLWarmUp`, `word_dropout` and `FreeBits`.

Each is trained for the same number of epochs, and the weights of the best epoch on the validation texts are taken. The
figures are bits per symbol of the test texts, the end of each text being one: by the bound ("elbo"), and by importance
sampling with 100 draws ("bits"), both upper bounds of -log2 p(x); and the KL divergence in nats per text. For the gru
all bits are exact. Results are added to PATH, one line of JSON each, and what is there is not computed again.
"""

import argparse
import time
from pathlib import Path
from pydoc_data import topics
from typing import Any

import keras
import numpy as np
from records import resumed

import tfvae
from tfvae.data import Vocabulary

METHODS = ("gru", "recipe", "plain")
LATENT_DIM, WIDTH = 16, 128
BATCH_SIZE, DRAWS = 64, 100
# The nats of KL that cost nothing more, and the probability of a step before not to be shown, in the recipe.
FREE, DROPOUT = 4.0, 0.2


def english() -> list[str]:
    """The lines of Python's help topics, each once."""
    lines = (" ".join(line.split()) for text in topics.topics.values() for line in text.splitlines())
    return [line for line in dict.fromkeys(lines) if 20 <= len(line) <= 72 and line.isascii()]


def molecules(n: int = 6_000, seed: int = 0) -> list[str]:
    """SMILES of made-up molecules of at most 60 characters, each once."""
    rng = np.random.default_rng(seed)
    rings = ("c1ccccc1", "c1ccncc1", "c1ccoc1", "C1CCCCC1", "C1CCNCC1", "c1ccc2ccccc2c1")
    links = ("C", "N", "O", "S", "C(=O)", "C=C", "C#C")
    ends = ("F", "Cl", "Br", "O", "N", "C#N", "C(F)(F)F", "C(=O)O")

    def grown(taste: dict[str, Any], depth: int) -> str:
        text = ""
        for _ in range(1 + rng.poisson(taste["size"])):
            text += rng.choice(links, p=taste["links"])
            if depth < 2 and rng.random() < taste["branches"]:
                text += f"({grown(taste, depth + 1)})"
        if depth == 0 and rng.random() < taste["rings"]:
            return text + rng.choice(rings, p=taste["kinds"])
        return text + rng.choice(ends, p=taste["ends"])

    found: dict[str, None] = {}
    while len(found) < n:
        taste = {
            "size": rng.uniform(1, 6),
            "branches": rng.uniform(0, 0.5),
            "rings": rng.uniform(0, 1),
            "links": rng.dirichlet(np.full(len(links), 0.5)),
            "ends": rng.dirichlet(np.full(len(ends), 0.3)),
            "kinds": rng.dirichlet(np.full(len(rings), 0.3)),
        }
        text = grown(taste, 0)
        if 5 <= len(text) <= 60:
            found[text] = None
    return list(found)


TEXTS = {"english": (english, "characters"), "smiles": (molecules, "smiles")}


def split(texts: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The texts in a random order, as those of the training, the validation and the test."""
    order = np.random.default_rng(0).permutation(len(texts))
    tenth = len(texts) // 10
    return tuple([texts[i] for i in part] for part in (order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]))  # type: ignore[return-value]


def decoder_of(num_classes: int) -> keras.Model:
    """The decoder, which is the language model too, where z is always 0."""
    return tfvae.networks.recurrent_decoder(
        LATENT_DIM, None, (num_classes,), units=(WIDTH,), hidden=(), step_shape=(1,), num_classes=num_classes
    )


def bits(nats: np.ndarray, texts: list[str], vocabulary: Vocabulary) -> float:
    """Bits per symbol, of the log-probabilities of texts in nats."""
    symbols = np.isfinite(vocabulary.encode(texts)).sum()
    return float(-nats.sum() / np.log(2) / symbols)


def fitted(model: keras.Model, x: Any, validation: Any, epochs: int, monitor: str, **arguments: Any) -> float:
    """Trains a model, gives it the weights of its best epoch, and returns the seconds that took."""
    mode = "max" if monitor == "val_elbo" else "min"
    best = keras.callbacks.EarlyStopping(monitor, patience=epochs, mode=mode, restore_best_weights=True)
    callbacks = [best, *arguments.pop("callbacks", [])]
    start = time.perf_counter()
    model.fit(
        x, epochs=epochs, batch_size=BATCH_SIZE, validation_data=validation, verbose=0, callbacks=callbacks, **arguments
    )
    return time.perf_counter() - start


def language_model(parts: list[list[str]], vocabulary: Vocabulary, epochs: int) -> dict[str, Any]:
    """Trains the decoder alone, by Keras alone, and measures it."""
    model = decoder_of(vocabulary.num_classes)
    model.compile(keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def arrays(texts: list[str]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        codes = vocabulary.encode(texts, 75)
        before = np.concatenate([np.full_like(codes[:, :1], np.nan), codes[:, :-1]], axis=1)
        is_symbol = np.isfinite(codes[..., 0])
        # Each symbol counts the same, as in the likelihood of a text, and Keras divides by the size of the batch.
        weights = is_symbol * np.float32(is_symbol.size / is_symbol.sum())
        return [np.zeros((len(codes), LATENT_DIM), np.float32), before], np.nan_to_num(codes), weights

    x, y, weights = arrays(parts[0])
    seconds = fitted(model, x, arrays(parts[1]), epochs, "val_loss", y=y, sample_weight=weights)
    x, y, weights = arrays(parts[2])
    logits = model.predict(x, batch_size=256, verbose=0)
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    nats = np.take_along_axis(log_probs, y.astype(int), axis=-1)[..., 0] * (weights > 0)
    value = bits(nats, parts[2], vocabulary)
    return {"elbo": value, "bits": value, "kl": 0.0, "weights": model.count_params(), "seconds": seconds}


def autoencoder(
    parts: list[list[str]], vocabulary: Vocabulary, epochs: int, with_recipe: bool
) -> tuple[dict[str, Any], tfvae.AutoregressiveVAE]:
    """Trains and measures an AutoregressiveVAE."""
    classes = vocabulary.num_classes
    encoder = tfvae.networks.recurrent_encoder((1,), units=(WIDTH,), hidden=(WIDTH,), causal=False, num_classes=classes)
    objective, dropout = (tfvae.objectives.FreeBits(FREE, per_dimension=False), DROPOUT) if with_recipe else (None, 0.0)
    model = tfvae.AutoregressiveVAE(
        encoder, decoder_of(classes), LATENT_DIM, objective=objective, vocabulary=vocabulary, word_dropout=dropout
    )
    model.compile(keras.optimizers.Adam(0.003))
    steps = epochs * len(parts[0]) // BATCH_SIZE
    callbacks = [tfvae.callbacks.KLWarmUp(steps // 3)] if with_recipe else []
    seconds = fitted(model, parts[0], parts[1], epochs, "val_elbo", callbacks=callbacks)
    terms = model.evaluate(parts[2], verbose=0, return_dict=True)
    figures = {
        "elbo": bits(np.array(terms["elbo"] * len(parts[2])), parts[2], vocabulary),
        "bits": bits(model.log_likelihood(parts[2], DRAWS, seed=0), parts[2], vocabulary),
        "kl": terms["kl"],
        "weights": model.decoder.count_params(),
        "seconds": seconds,
    }
    return figures, model


def show(model: tfvae.AutoregressiveVAE, texts: list[str]) -> None:
    """Prints reconstructions, interpolations and samples."""
    for text, made in zip(texts[:4], model.reconstruct(texts[:4]), strict=True):
        print(f"  {text}\n    -> {made}")
    for first, last in ((texts[0], texts[1]), (texts[2], texts[3])):
        ends = model.encode([first, last])["loc"]
        line = np.linspace(ends[0], ends[1], 7)
        print("  between two:", *model.decode(line), sep="\n    ")
    print("  samples:", *model.generate(5, seed=0), sep="\n    ")
    print("  samples at temperature 0.5:", *model.generate(5, temperature=0.5, seed=0), sep="\n    ", flush=True)


def measure(name: str, method: str, epochs: int) -> dict[str, Any]:
    """Trains one method on one set of texts, and measures it on those of the test."""
    keras.utils.set_random_seed(0)
    make, kind = TEXTS[name]
    texts = make()
    parts = split(texts)
    vocabulary = Vocabulary.learn(texts, kind)
    if method == "gru":
        figures = language_model(parts, vocabulary, epochs)
    else:
        figures, model = autoencoder(parts, vocabulary, epochs, method == "recipe")
        if method == "recipe":
            show(model, parts[2])
    return {"texts": name, "method": method, "epochs": epochs, **figures}


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    rows = ["| texts | method | bits (bound) | bits | KL (nats) | weights of the decoder | s |", "|" + " --- |" * 7]
    for each in results:
        numbers = f"{each['elbo']:.3f} | {each['bits']:.3f} | {each['kl']:.1f} | {each['weights']:,}"
        rows.append(f"| {each['texts']} | {each['method']} | {numbers} | {each['seconds']:.0f} |")
    return "\n".join(rows)


def main() -> None:
    """Measures what the output file does not hold yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--output", type=Path, help="a .jsonl file to which results are added; those in it are kept")
    options = parser.parse_args()
    settings = (
        {"texts": name, "method": method, "epochs": options.epochs}
        for name in options.texts
        for method in options.methods
    )
    results = resumed(options.output, settings, lambda each: measure(each["texts"], each["method"], each["epochs"]))
    print(table(results))


if __name__ == "__main__":
    main()
