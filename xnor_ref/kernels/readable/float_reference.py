"""Real-valued building blocks in NumPy: the simple twins of `float_plain`, with the same signatures.

All arrays are float32 and C-contiguous, and images are (N, C, H, W). Functions write into arrays that the caller
allocated. They compute only images (or channels, or elements) `start` to `stop`, so that threads can share a call.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def _canvas(shape, window, out_size):
    """Return the shape (N, C, ...) of images (N, C, H, W) with all padding that their windows cover."""
    ends = (
        max(size + before, (out - 1) * stride + (kernel - 1) * dilation + 1)
        for size, out, kernel, stride, before, dilation in zip(shape[2:], out_size, *window)
    )
    return *shape[:2], *ends


def _windows(images, window, out_size, border):
    """Return a view (N, C, OH, OW, KH, KW) of all windows of images padded with `border`."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = window
    h, w = images.shape[2:]
    canvas = np.full(_canvas(images.shape, window, out_size), border, np.float32)
    canvas[:, :, ph : ph + h, pw : pw + w] = images
    view = sliding_window_view(canvas, ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(2, 3))
    return view[:, :, ::sh, ::sw, ::dh, ::dw][:, :, : out_size[0], : out_size[1]]


def im2col(x, start, stop, window, out_size, pad_value, take_sign, cols):
    """Fill cols (C*KH*KW, (stop-start)*OH*OW) with one column per output position: x, or its signs if `take_sign`.

    `window` is `Window.numbers`, here and below.
    """
    images = x[start:stop]
    if take_sign:
        images = np.where(images >= 0, np.float32(1), np.float32(-1))
    cols[...] = _windows(images, window, out_size, pad_value).transpose(1, 4, 5, 0, 2, 3).reshape(cols.shape)


def col2im(cols, start, stop, window, out_size, dx):
    """Add every column into dx (N, C, H, W): the transpose of `im2col`."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = window
    (oh, ow), (_, c, h, w), n = out_size, dx.shape, stop - start
    taps = cols.reshape(c, kh, kw, n, oh, ow)
    canvas = np.zeros(_canvas((n, c, h, w), window, out_size), np.float32)
    for i in range(kh):
        for j in range(kw):
            met = canvas[:, :, i * dh :: sh, j * dw :: sw][:, :, :oh, :ow]
            met += taps[:, i, j].transpose(1, 0, 2, 3)
    dx[start:stop] += canvas[:, :, ph : ph + h, pw : pw + w]


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


def max_pool_winners(x, start, stop, window, y, winner):
    """Fill y (N, C, OH, OW) with the maximum of each window, and winner with kh*KW+kw of the first tap that has it.

    Padding never wins.
    """
    view = _windows(x[start:stop], window, y.shape[2:], -np.inf)
    flat = view.reshape(*view.shape[:4], -1)
    winner[start:stop] = flat.argmax(axis=4)
    y[start:stop] = flat.max(axis=4)


def max_pool_backward(dy, winner, start, stop, window, dx):
    """Add each output gradient to the tap that won."""
    taps = np.arange(window[0][0] * window[0][1])[:, None, None, None]
    part, won = dy[start:stop], winner[start:stop]
    cols = np.where(won.swapaxes(0, 1)[:, None] == taps, part.swapaxes(0, 1)[:, None], np.float32(0))
    col2im(cols, start, stop, window, dy.shape[2:], dx)
