"""larq-compute-engine as a program for the kit; it runs in an environment of its own, which needs NumPy below 2."""

import sys

import larq as lq
import numpy as np
import tensorflow as tf
from larq_compute_engine import convert_keras_model
from larq_compute_engine.tflite.python.interpreter import Interpreter

KERNEL = {"reference": {"use_reference_bconv": True}, "indirect": {"use_indirect_bgemm": True}, "default": {}}[
    sys.argv[1]
]
SIGNS = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "use_bias": False}


def conv2d(x, weight, stride, padding, pad_value):
    around = "same" if (padding < 0).any() else "valid"
    layer = lq.layers.QuantConv2D(len(weight), weight.shape[2:], stride, around, pad_values=float(pad_value), **SIGNS)
    model = tf.keras.Sequential([tf.keras.layers.InputLayer((*x.shape[2:], x.shape[1])), layer])
    layer.set_weights([weight.transpose(2, 3, 1, 0)])
    engine = Interpreter(convert_keras_model(model), **KERNEL)
    return engine.predict(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)


for line in sys.stdin:
    role, request, answer = line.split()
    np.savez(answer, result=globals()[role](**np.load(request)))
    print("done", flush=True)
