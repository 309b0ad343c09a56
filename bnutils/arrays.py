"""Batch normalisation on NumPy arrays, forwards and backwards, as chapters 2 and 3 derive it.

Everywhere, ``x`` has shape (N, C) or (N, C, L): N examples, C channels, L positions.
Statistics are taken per channel over the m = N or m = N * L remaining values, in two
passes (first the mean, then the mean squared deviation from it), with the biased
variance, as in Ioffe & Szegedy (2015), arXiv:1502.03167, Algorithm 1.
"""

import numpy as np

__all__ = ["batch_norm_backward", "batch_norm_forward"]


def batch_norm_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5
) -> np.ndarray:
    """Normalise each channel of a batch, then scale and shift it (chapter 2).

    Parameters
    ----------
    x : array, shape (N, C) or (N, C, L)
    weight, bias : arrays, shape (C,)
        The scale gamma and the shift beta.
    eps : float
        Added to the variance, inside the square root.

    Returns
    -------
    array, shape of ``x``
    """
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes, keepdims=True)  # (1, C) or (1, C, 1)
    var = ((x - mean) ** 2).mean(axes, keepdims=True)  # (1, C) or (1, C, 1)
    x_hat = (x - mean) / np.sqrt(var + eps)
    return weight.reshape(mean.shape) * x_hat + bias.reshape(mean.shape)


def batch_norm_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of a scalar loss through :func:`batch_norm_forward` (chapter 3).

    Parameters
    ----------
    dy : array, shape of ``x``
        Gradient of the loss with respect to the output.
    x : array, shape (N, C) or (N, C, L)
        The input of the forward pass.
    weight : array, shape (C,)
    eps : float

    Returns
    -------
    dx, dweight, dbias : arrays, shapes of ``x``, (C,) and (C,)
    """
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes, keepdims=True)  # (1, C) or (1, C, 1)
    var = ((x - mean) ** 2).mean(axes, keepdims=True)
    std = np.sqrt(var + eps)
    x_hat = (x - mean) / std
    along_one = dy.mean(axes, keepdims=True)
    along_x_hat = (dy * x_hat).mean(axes, keepdims=True)
    dx = weight.reshape(mean.shape) / std * (dy - along_one - x_hat * along_x_hat)
    return dx, (dy * x_hat).sum(axes), dy.sum(axes)
