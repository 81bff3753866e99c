"""Real-valued building blocks in NumPy: the obvious twin of `float_plain`, with the same signatures.

All arrays are float32 and C-contiguous, images are (N, C, H, W). Functions write into arrays that the caller made
and work on the images (or channels, or elements) from `start` to `stop` only, so that several threads can share a call.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from xnor_ref.kernels.basics.geometry import conv_output_size, padded_size, spatial


def _windows(padded, kernel, stride, out_size):
    """View (N, C, OH, OW, KH, KW) of all windows of a padded image."""
    view = sliding_window_view(padded, kernel, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1]][:, :, : out_size[0], : out_size[1]]


def im2col(x, start, stop, kernel, stride, padding, pad_value, take_sign, cols):
    """cols (C*KH*KW, (stop-start)*OH*OW) gets one column per output position; signs of x if `take_sign`."""
    ph, pw = padding
    images = x[start:stop]
    if take_sign:
        images = np.where(images >= 0, np.float32(1), np.float32(-1))
    padded = np.pad(images, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=pad_value)
    view = _windows(padded, kernel, stride, conv_output_size(spatial(x), kernel, stride, padding))
    cols[...] = view.transpose(1, 4, 5, 0, 2, 3).reshape(cols.shape)


def col2im(cols, start, stop, kernel, stride, padding, out_size, dx):
    """The transpose of `im2col`: adds every column into dx (N, C, H, W)."""
    (kh, kw), (sh, sw), (ph, pw), (oh, ow) = kernel, stride, padding, out_size
    _, c, h, w = dx.shape
    n = stop - start
    taps = cols.reshape(c, kh, kw, n, oh, ow)
    padded = np.zeros((n, c, *padded_size((h, w), padding)), np.float32)
    for i in range(kh):
        for j in range(kw):
            padded[:, :, i : i + sh * oh : sh, j : j + sw * ow : sw] += taps[:, i, j].transpose(1, 0, 2, 3)
    dx[start:stop] += padded[:, :, ph : ph + h, pw : pw + w]


def batch_norm_forward(x, start, stop, gamma, beta, eps, y, mean, var):
    """Normalise channels start..stop of x (N, C, P) with their own mean and (biased) variance, summed in float64."""
    part = x[:, start:stop]
    mean[start:stop] = part.mean(axis=(0, 2), dtype=np.float64)
    centred = part - mean[start:stop, None]
    var[start:stop] = np.square(centred).mean(axis=(0, 2))
    scale = gamma[start:stop] / np.sqrt(var[start:stop] + eps)
    shift = beta[start:stop] - mean[start:stop] * scale
    y[:, start:stop] = part * scale.astype(np.float32)[:, None] + shift.astype(np.float32)[:, None]


def batch_norm_backward(dy, x, start, stop, gamma, mean, var, eps, dx, dgamma, dbeta):
    """Gradients of `batch_norm_forward` for channels start..stop."""
    count = x.shape[0] * x.shape[2]
    inv_std = 1.0 / np.sqrt(var[start:stop] + eps)
    normal = (x[:, start:stop] - mean[start:stop, None]) * inv_std[:, None]
    part = dy[:, start:stop]
    dbeta[start:stop] = part.sum(axis=(0, 2), dtype=np.float64)
    dgamma[start:stop] = (part * normal).sum(axis=(0, 2))
    mean_dy = (dbeta[start:stop] / count)[:, None]
    mean_dn = (dgamma[start:stop] / count)[:, None]
    dx[:, start:stop] = (part - mean_dy - normal * mean_dn) * (gamma[start:stop] * inv_std)[:, None]


def max_pool_winners(x, start, stop, kernel, stride, padding, y, winner):
    """y (N, C, OH, OW) is the maximum of each window, and winner holds kh*KW+kw of the first tap that reaches it.

    The border never wins.
    """
    (kh, kw), (ph, pw) = kernel, padding
    images = x[start:stop]
    padded = np.pad(images, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=-np.inf)
    view = _windows(padded, kernel, stride, y.shape[2:])
    flat = view.reshape(*view.shape[:4], kh * kw)
    winner[start:stop] = flat.argmax(axis=4)
    y[start:stop] = flat.max(axis=4)


def max_pool_backward(dy, winner, start, stop, kernel, stride, padding, dx):
    """Adds each output gradient to the tap that won."""
    (kh, kw), (sh, sw), (ph, pw) = kernel, stride, padding
    _, _, h, w = dx.shape
    oh, ow = dy.shape[2:]
    part = dy[start:stop]
    padded = np.zeros((*part.shape[:2], h + 2 * ph + sh, w + 2 * pw + sw), np.float32)
    for i in range(kh):
        for j in range(kw):
            won = part * (winner[start:stop] == i * kw + j)
            padded[:, :, i : i + sh * oh : sh, j : j + sw * ow : sw][:, :, :oh, :ow] += won
    dx[start:stop] += padded[:, :, ph : ph + h, pw : pw + w]
