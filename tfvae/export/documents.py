"""The files beside a model's versions that say how to serve it."""

import json
from typing import Any

import numpy as np

from tfvae.inference.variational_inference import VariationalInference
from tfvae.models.autoencoder import Autoencoder

_README = """# {name}

A variational autoencoder exported by tfvae: x has the shape {event_shape}, z has {latent_dim} dimensions.
`<version>/assets.extra/metadata.json` says how to bring raw data into the model's units.

## Serve it

    docker run -p 8500:8500 -p 8501:8501 -v "$PWD:/models/{name}" tensorflow/serving \\
        --model_config_file=/models/{name}/models.config \\
        --enable_batching --batching_parameters_file=/models/{name}/batching.config

from this folder. A new version that is exported here is loaded, and the old one unloaded, without a restart.

## Ask it

REST, by rows. A signature with several inputs has them by name in each row. The answer is `{{"predictions": [...]}}`
with one entry a row: the outputs by name, or a bare value where the signature has one output. With
`"inputs": {{"x": [...], "epsilon": [...]}}` instead of `instances` the answer is `{{"outputs": ...}}` by column.

    curl -d @requests/serving_default.json http://localhost:8501/v1/models/{name}:predict
    curl -d @requests/score.json http://localhost:8501/v1/models/{name}:predict

gRPC, with `pip install tensorflow-serving-api`; inputs are float32:

    import grpc
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel("localhost:8500"))
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "{name}"
    request.model_spec.signature_name = "encode"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros({batch_of_one}, np.float32)))
    response = stub.Predict(request, timeout=10)

## Signatures

B is any number of examples, up to the 1024 of batching.config where it is used; everything is float32.
{conditions}
| signature | inputs | outputs |
| --- | --- | --- |
| encode | x [B, {event}] | the parameters of q(z\\|x), such as loc and scale [B, {latent_dim}] |
| decode | z [B, {latent_dim}] | mean [B, {event}] of p(x\\|z) |
| reconstruct | x [B, {event}] | mean [B, {event}], at the mean of q(z\\|x) |
| generate | epsilon [B, {epsilon_dim}], from N(0, I) | mean [B, {event}] |
| score | x [B, {event}], epsilon [B, {epsilon_dim}] | elbo, log_likelihood, kl [B], in nats |
| serving_default | x [B, {event}] | mean, elbo, log_likelihood, kl, at the mean of q(z\\|x) |
"""

_POSTERIOR_README = """# {name}

The posterior of a Bayesian model, approximated by variational inference and exported by tfvae. Its latent variables,
with their shapes: {latents}.

## Serve it

    docker run -p 8500:8500 -p 8501:8501 -v "$PWD:/models/{name}" tensorflow/serving \\
        --model_config_file=/models/{name}/models.config \\
        --enable_batching --batching_parameters_file=/models/{name}/batching.config

from this folder. A new version that is exported here is loaded, and the old one unloaded, without a restart.

## Ask it

REST, by rows: a signature with several inputs has them by name in each row. The answer is `{{"predictions": [...]}}`
with one entry a row: the outputs by name, or a bare value where the signature has one output.

    curl -d @requests/serving_default.json http://localhost:8501/v1/models/{name}:predict
    curl -d @requests/sample.json http://localhost:8501/v1/models/{name}:predict

## Signatures

B is any number of rows, up to the 1024 of batching.config where it is used; everything is float32.

| signature | inputs | outputs |
| --- | --- | --- |
| sample | epsilon [B, {dim}], from N(0, I) | the latent variables by name, each [B, ...]: one draw for each row |
{predict}"""

_PREDICT = """| predict, serving_default | {inputs} | mean, stddev [B, ...] of the posterior predictive distribution |
"""

_MODELS_CONFIG = """model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
}}
"""

_BATCHING_CONFIG = """max_batch_size { value: 1024 }
batch_timeout_micros { value: 1000 }
num_batch_threads { value: 4 }
max_enqueued_batches { value: 1000 }
allowed_batch_sizes: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
"""


def files(model: Autoencoder, name: str) -> dict[str, str]:
    """The text of each file by its name.

    Args:
        model: a model that is built.
        name: the name under which it is served.
    """
    x = np.zeros(model.event_shape).tolist()
    epsilon = np.zeros(model._epsilon_dim).tolist()
    conditions = {name: np.zeros(shape).tolist() for name, shape in model._given_shapes.items()}
    requests = {
        "serving_default": {"instances": [{"x": x, **conditions} if conditions else x]},
        "score": {"signature_name": "score", "instances": [{"x": x, "epsilon": epsilon, **conditions}]},
    }
    readme = _README.format(
        conditions="".join(
            f"\nEvery signature here takes {name} [{', '.join(map(str, ('B', *shape)))}] too.\n"
            for name, shape in model._given_shapes.items()
        ),
        name=name,
        event_shape=list(model.event_shape),
        event=", ".join(map(str, model.event_shape)),
        latent_dim=model._z_dim,
        epsilon_dim=model._epsilon_dim,
        batch_of_one=(1, *model.event_shape),
    )
    return {
        "README.md": readme,
        "models.config": _MODELS_CONFIG.format(name=name),
        "batching.config": _BATCHING_CONFIG,
        **{f"requests/{signature}.json": json.dumps(request) + "\n" for signature, request in requests.items()},
    }


def posterior_files(model: VariationalInference, x: Any, name: str) -> dict[str, str]:
    """The text of each file by its name, for the posterior of a Bayesian model.

    Args:
        model: a model that is fitted.
        x: new data as its `predictive` takes them, or None.
        name: the name under which it is served.
    """
    epsilon = np.zeros(model.space.dim).tolist()
    requests = {"sample": {"signature_name": "sample", "instances": [{"epsilon": epsilon}]}}
    requests["serving_default"] = {"instances": [{"epsilon": epsilon}]}
    predict = ""
    if x is not None:
        arrays = {key: np.asarray(array) for key, array in (x if isinstance(x, dict) else {"x": x}).items()}
        requests["serving_default"] = {"instances": [{key: array[0].tolist() for key, array in arrays.items()}]}
        shapes = [f"{key} [{', '.join(['B', *map(str, array.shape[1:])])}]" for key, array in arrays.items()]
        predict = _PREDICT.format(inputs=", ".join(shapes))
    latents = ", ".join(f"{key} {list(shape)}" for key, shape in model.space.shapes.items())
    return {
        "README.md": _POSTERIOR_README.format(name=name, latents=latents, dim=model.space.dim, predict=predict),
        "models.config": _MODELS_CONFIG.format(name=name),
        "batching.config": _BATCHING_CONFIG,
        **{f"requests/{signature}.json": json.dumps(request) + "\n" for signature, request in requests.items()},
    }
