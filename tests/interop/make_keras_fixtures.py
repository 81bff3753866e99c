"""Keras models with their images and logits, for `test_keras.py`.

To be run in an environment of its own, which cannot hold xnor_ref: larq needs Keras 2 and NumPy below 2.

    python3.11 -m venv larq
    larq/bin/pip install tensorflow-cpu==2.15.1 larq==0.13.3 larq-zoo==2.4.0 'numpy<2'
    larq/bin/python tests/interop/make_keras_fixtures.py FOLDER            # 8 images each; keras.zip holds them
    larq/bin/python tests/interop/make_keras_fixtures.py FOLDER 1000       # 1,000 images, and QuickNet-small as it is

Without larq, in an environment with Keras 3, it writes the models of Keras 3 alone. Weights are random, and have few
digits, so that they compress. BatchNorm's statistics are those of the images.
"""

import os
import sys
from pathlib import Path

import numpy as np


def libraries():
    """larq, where it is installed, and the Keras that goes with it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import larq
        from tensorflow import keras
    except ModuleNotFoundError:
        import keras

        larq = None
    return larq, keras


def chain():
    """Binary weights on real inputs, then binary layers; flattening before a Dense; a file `.keras`."""
    binary = dict(kernel_quantizer="ste_sign", kernel_constraint="weight_clip", use_bias=False)
    return keras.Sequential(
        [
            layers.InputLayer((17, 17, 3)),
            layers.Rescaling(1 / 127.5, offset=-1.0),
            lq.layers.QuantConv2D(16, 3, padding="same", strides=2, **binary),
            layers.BatchNormalization(scale=False, epsilon=1e-5),
            lq.layers.QuantConv2D(24, 3, padding="same", input_quantizer="approx_sign", **binary),
            layers.MaxPooling2D(2, padding="same"),
            layers.BatchNormalization(center=False),
            lq.layers.QuantConv2D(16, 3, padding="valid", input_quantizer="ste_sign", **binary),
            layers.BatchNormalization(scale=False, center=False),
            layers.Activation("hard_tanh"),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.BatchNormalization(),
            lq.layers.QuantDense(32, input_quantizer="swish_sign", **binary),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Dense(7),
            layers.Activation("softmax"),
        ],
        name="chain",
    )


def resnet():
    """Shortcuts, magnitude-aware signs, PReLU, paddings of 0, 1 and -1, concatenation; a file `.h5`."""

    def block(x, filters, strides, pad):
        shortcut = x
        if strides > 1:
            shortcut = layers.AveragePooling2D(2, padding="same")(x)
            shortcut = layers.Conv2D(filters, 1, use_bias=False)(shortcut)
            shortcut = layers.BatchNormalization()(shortcut)
        x = lq.layers.QuantConv2D(
            filters,
            3,
            strides,
            padding="same",
            pad_values=pad,
            input_quantizer=lq.quantizers.SteSign(clip_value=1.25),
            kernel_quantizer=lq.quantizers.MagnitudeAwareSign(),
            use_bias=pad == 0,
        )(x)
        x = layers.BatchNormalization(momentum=0.8)(x)
        x = layers.Add()([x, shortcut])
        return layers.PReLU(shared_axes=[1, 2])(x)

    image = layers.Input((20, 18, 3))
    x = layers.ZeroPadding2D(((2, 1), (0, 3)))(image)
    x = layers.Conv2D(12, 5, strides=2)(x)
    x = layers.BatchNormalization()(x)
    x = block(x, 12, 1, 1.0)
    x = block(x, 16, 2, 0.0)
    y = block(x, 16, 1, -1.0)
    x = layers.Concatenate()([x, y])
    x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(6, activation="softmax")(x), name="resnet")


def parts():
    """What else there is: depthwise, separable and grouped layers, dilation, a model in a model; weights of `.h5`."""
    signs = dict(input_quantizer="ste_sign", kernel_quantizer="ste_sign")
    image = layers.Input((15, 13, 4))
    x = layers.BatchNormalization()(image)
    x = lq.layers.QuantDepthwiseConv2D(
        3, 2, padding="same", depth_multiplier=3, input_quantizer="ste_sign", depthwise_quantizer="ste_sign"
    )(x)
    x = layers.BatchNormalization()(x)
    x = lq.layers.QuantDepthwiseConv2D(
        3, padding="same", input_quantizer="ste_sign", depthwise_quantizer="magnitude_aware_sign", pad_values=1.0
    )(x)
    x = layers.LeakyReLU(0.2)(x)
    x = lq.layers.QuantSeparableConv2D(
        10, 3, 2, input_quantizer="ste_sign", depthwise_quantizer="ste_sign", pointwise_quantizer="ste_sign"
    )(layers.ZeroPadding2D(1)(x))
    x = layers.BatchNormalization()(x)
    x = layers.ZeroPadding2D(((1, 2), (2, 1)))(x)
    x = lq.layers.QuantConv2D(12, 3, dilation_rate=2, groups=2, activation="relu", **signs)(x)
    x = layers.BatchNormalization()(x)
    inner = keras.Sequential(
        [layers.Conv2D(9, 2, padding="same"), layers.BatchNormalization(), layers.PReLU(shared_axes=[1, 2])],
        name="inner",
    )
    y = inner(x)
    y = layers.SeparableConv2D(9, 3, padding="same", activation="hard_tanh")(y)
    z = layers.Concatenate()([layers.Flatten()(x), layers.GlobalMaxPooling2D()(y), layers.Flatten()(y)])
    z = layers.BatchNormalization()(z)
    z = lq.quantizers.SteSign()(z)
    z = lq.layers.QuantDense(24, kernel_quantizer="ste_sign", activation="relu")(z)
    return keras.Model(image, layers.Dense(5)(z), name="parts")


def quicknet():
    """Two sections of larq-zoo's QuickNet, narrower than there; a file `.weights.h5` with its JSON."""
    from larq_zoo.sota.quicknet import QuickNetFactory
    from zookeeper import configure

    factory = QuickNetFactory()
    values = {"section_blocks": (1, 2), "section_filters": (16, 32), "input_shape": (33, 33, 3), "num_classes": 8}
    configure(factory, {**values, "weights": None})
    return factory.build()


def quicknet_small():
    """QuickNet-small at 64 pixels."""
    from larq_zoo.sota import QuickNetSmall

    return QuickNetSmall(input_shape=(64, 64, 3), weights=None, num_classes=100)


def keras3():
    """Layers of Keras 3 itself, with a sum written as `+` and a model in a model."""
    image = layers.Input((11, 9, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same")(image)
    x = layers.BatchNormalization()(x)
    y = keras.Sequential([layers.Conv2D(6, 1), layers.BatchNormalization(), layers.PReLU(shared_axes=[1, 2])])(x)
    x = keras.ops.relu(layers.Concatenate()([x + y, x]))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.Flatten()(x)), name="keras3")


def randomise(model, images, rng):
    """Random weights of few digits, and BatchNorm's statistics from the images."""
    norms = []
    for layer in model._flatten_layers() if hasattr(model, "_flatten_layers") else _flat(model):
        if isinstance(layer, layers.BatchNormalization):
            norms.append(layer)
        own = [] if hasattr(layer, "layers") else layer.get_weights()
        new = []
        for at, weight in enumerate(own):
            spread = np.sqrt(2 / max(np.prod(weight.shape[:-1]), 1)) if weight.ndim > 1 else 0.2
            values = spread * rng.standard_normal(weight.shape)
            if isinstance(layer, layers.BatchNormalization):
                values = 0.3 * rng.standard_normal(weight.shape) + (1 if at == 0 and layer.scale else 0)
                values = np.abs(values) + 0.1 if at == len(own) - 1 else values
            if isinstance(layer, layers.PReLU):
                values = rng.uniform(0.05, 0.4, weight.shape)
            new.append(np.float32(np.float16(np.round(values * 512) / 512)))
        if own:
            layer.set_weights(new)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(np.float32(images), training=True)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def _flat(model):
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _flat(layer)


def logits_of(model, images):
    """Those before a softmax at the end."""
    last = model.layers[-1]
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear
    return np.concatenate([np.asarray(model(images[at : at + 50], training=False)) for at in range(0, len(images), 50)])


def main(folder, count=8):
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"keras3": (keras3, ".keras")}
    if lq is not None:
        makers = {
            "chain": (chain, ".keras"),
            "resnet": (resnet, ".h5"),
            "parts": (parts, ".h5"),
            "quicknet": (quicknet, ".weights.h5"),
        }
        if count > 8:
            makers["quicknet_small"] = (quicknet_small, ".keras")
    for seed, (name, (make, ending)) in enumerate(makers.items()):
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        model = make()
        shape = model.input_shape[1:]
        smooth = rng.integers(0, 256, (max(count, 32), *(-(-size // 3) for size in shape[:2]), shape[2]), np.uint8)
        pixels = smooth.repeat(3, axis=1).repeat(3, axis=2)[:, : shape[0], : shape[1]]
        randomise(model, pixels[:256], rng)
        pixels = pixels[:count]
        path = folder / f"{name}{ending}"
        if ending == ".weights.h5":
            model.save_weights(path)
            (folder / f"{name}.json").write_text(model.to_json())
        else:
            model.save(path)
        logits = logits_of(model, np.float32(pixels))
        np.savez_compressed(folder / f"{name}.npz", pixels=pixels, logits=np.float32(logits))
        print(
            f"{name}: {model.count_params():,} parameters, {path.stat().st_size:,} bytes, "
            f"logits up to {abs(logits).max():.3g}"
        )


if __name__ == "__main__":
    lq, keras = libraries()
    layers = keras.layers
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
