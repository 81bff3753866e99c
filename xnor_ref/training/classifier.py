"""`XnorClassifier`: `fit` and a packed network as a scikit-learn estimator. scikit-learn itself is not needed."""

import copy
import inspect
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xnor_ref import nn
from xnor_ref.autodiff import Tensor, log_softmax
from xnor_ref.datasets.batches import normalization_table
from xnor_ref.errors import InputError, InputTypeError, ModelFileError, check_integer, is_integer
from xnor_ref.packed.freeze import freeze
from xnor_ref.training.fit import OF_DATA, SETTINGS, fit
from xnor_ref.training.fitting.evaluation import all_logits, float_logits, of_stored_images

_SETTINGS = tuple(name for name in SETTINGS if name not in OF_DATA)
_PARAMETERS = ("network", "image_shape", *_SETTINGS)

Network = nn.Module | str | Callable[[tuple[int, int, int], int], nn.Module]


class XnorClassifier:
    """A classifier of images or rows of numbers that follows scikit-learn's conventions.

    It works in `Pipeline`, `cross_val_score` and `GridSearchCV`, and can be cloned and pickled.

    Parameters
    ----------
    network : Module, str or callable, optional
        A Module, which is copied and trained; the name of a network in `models`; or a function of the image shape
        (C, H, W) and the number of classes that returns a Module. The default is `default_network`.
    image_shape : (H, W) or (H, W, C), optional
        Shape of the images in the rows (N, features) of X. By default a row is an image of one pixel.
    **settings
        The settings of `fit`, such as `epochs`, `lr`, `batch_size`, `seed`, except those for data sets by name. None,
        the default, leaves a setting to `fit`.

    Attributes
    ----------
    classes_ : ndarray (classes,)
        The labels in sorted order.
    n_features_in_ : int
        How many numbers a row or an image has.
    network_ : Module
        The trained network; `freeze(classifier.network_)` packs it.
    packed_ : PackedNetwork or None
        The packed network, which predicts. None if the network cannot be packed; it then predicts itself.
    history_ : list of dict
        The figures of each epoch, see `History`.

    Notes
    -----
    X is (N, features), (N, H, W) or (N, H, W, C). uint8 images, and uint8 rows with an `image_shape`, are raw pixels
    and are normalised by their own statistics. All other numbers become float32 and are used unchanged.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 5))
    >>> y = np.where(X[:, 0] > 0, "right", "left")
    >>> classifier = XnorClassifier(epochs=20, batch_size=20, lr=0.01).fit(X[:100], y[:100])
    >>> classifier.score(X[100:], y[100:]) > 0.8
    True
    >>> classifier.predict(X[:3]).shape, classifier.predict_proba(X[:3]).shape, classifier.classes_
    ((3,), (3, 2), array(['left', 'right'], dtype='<U5'))
    """

    _estimator_type = "classifier"

    def __init__(
        self, network: Network | None = None, *, image_shape: tuple[int, ...] | None = None, **settings: Any
    ) -> None:
        unknown = sorted(settings.keys() - set(_SETTINGS))
        if unknown:
            raise InputTypeError(f"XnorClassifier has no parameter {', '.join(unknown)}")
        self.network, self.image_shape = network, image_shape
        for name in _SETTINGS:
            setattr(self, name, settings.get(name))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all parameters by name."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **parameters: Any) -> "XnorClassifier":
        """Set parameters by name. Raises InputError for an unknown name."""
        for name, value in parameters.items():
            if name not in _PARAMETERS:
                raise InputError(f"XnorClassifier has no parameter {name!r}; it has {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    def fit(self, X: ArrayLike, y: ArrayLike) -> "XnorClassifier":
        """Train on X (N, features), (N, H, W) or (N, H, W, C), and labels y (N,) of any kind.

        Raises
        ------
        InputTypeError, InputError
            X does not hold numbers or holds NaN or infinity, there are fewer than two classes, lengths differ, or a
            parameter is out of range.
        """
        images = self._images(X)
        labels = _labels(y)
        if len(images) < 2:
            raise InputError(f"XnorClassifier: training needs at least 2 samples, got {len(images)} sample")
        try:
            classes, positions = np.unique(labels, return_inverse=True)
        except TypeError as error:
            raise InputTypeError(f"XnorClassifier: the classes of y cannot be sorted: {error}") from None
        shape = images.shape[3], *images.shape[1:3]
        settings = {name: getattr(self, name) for name in _SETTINGS}
        network: Any = self.network
        if network is None:
            network = default_network(shape, len(classes), settings["seed"] or 0)
        elif isinstance(network, nn.Module):
            network = copy.deepcopy(network)
        elif callable(network):
            network = network(shape, len(classes))
        history = fit(network, (images, positions), classes=classes.tolist(), layout="NHWC", **settings)
        self.classes_, self.n_features_in_ = classes, images[0].size
        self.history_, self._raw, self._shape = history.epochs, images.dtype == np.uint8, images.shape[1:]
        self.network_ = history.network
        self.packed_ = _packed(self.network_)
        return self

    def predict(self, X: ArrayLike) -> NDArray:
        """Return the most likely class of each row or image: (N,)."""
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the softmax of the logits: (N, classes), in the order of `classes_`."""
        return np.exp(log_softmax(Tensor(self._logits(X).astype(np.float64))).data)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the share of labels y (N,) predicted correctly, weighted by `sample_weight`."""
        labels = _labels(y)
        if len(labels) != len(found := self.predict(X)):
            raise InputError(f"XnorClassifier: X has {len(found)} samples, but y has {len(labels)}")
        return float(np.average(found == labels, weights=None if sample_weight is None else np.asarray(sample_weight)))

    def _logits(self, X: ArrayLike) -> NDArray[np.float32]:
        if not hasattr(self, "network_"):
            raise _unfitted("XnorClassifier is not fitted yet; call fit first")
        images = self._images(X)
        if images.shape[1:] != self._shape:
            if images.shape[1:3] == self._shape[:2] == (1, 1):
                found, wanted = images.shape[3], self._shape[2]
                raise InputError(f"X has {found} features, but XnorClassifier is expecting {wanted} features as input")
            raise InputError(f"XnorClassifier was fitted to images {self._shape}, but X has {images.shape[1:]}")
        if (images.dtype == np.uint8) != self._raw:
            kinds = ("normalised numbers", "raw pixels")
            raise InputTypeError(
                f"XnorClassifier was fitted to {kinds[self._raw]}, but X holds {kinds[not self._raw]} ({images.dtype})"
            )
        if self.packed_ is not None:
            return of_stored_images(self.packed_)(images)
        about = self.network_.about
        table = normalization_table(about["mean"], about["std"]) if self._raw else None
        return all_logits(float_logits(self.network_, table), images)

    def _images(self, X: Any) -> NDArray:
        """Return X as images (N, H, W, C), uint8 or float32."""
        if hasattr(X, "toarray"):
            raise InputTypeError("XnorClassifier: X is sparse, and sparse data is not supported; use X.toarray()")
        x = np.asarray(X)
        if x.dtype.kind == "c":
            raise InputError(f"XnorClassifier: Complex data not supported, got {x.dtype}")
        if x.dtype.kind not in "biuf":
            try:
                x = x.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise InputTypeError(f"XnorClassifier: X must hold numbers: {error}") from None
        if x.ndim not in (2, 3, 4):
            raise InputError(
                f"Expected 2D array, got {x.ndim}D array instead (shape {x.shape}). Reshape your data to rows "
                "(N, features), or images (N, H, W) or (N, H, W, C)"
            )
        for what, count in (("sample", x.shape[0]), ("feature", x[:1].size if len(x) else 1)):
            if not count:
                raise InputError(f"Found array with 0 {what}(s) (shape={x.shape}) while a minimum of 1 is required.")
        raw = x.dtype == np.uint8 and (x.ndim > 2 or self.image_shape is not None)
        if not raw:
            with np.errstate(over="ignore"):
                x = x.astype(np.float32)
            if not np.isfinite(x).all():
                raise InputError("XnorClassifier: X contains NaN, infinity or a value too large for float32")
        if x.ndim == 2:
            x = x.reshape(len(x), *self._pixels(x.shape[1]))
        return x if x.ndim == 4 else x[..., None]

    def _pixels(self, features: int) -> tuple[int, ...]:
        """Return the shape (H, W, C) or (H, W) of a row."""
        if self.image_shape is None:
            return 1, 1, features
        shape = self.image_shape
        integers = isinstance(shape, (tuple, list)) and all(map(is_integer, shape))
        if not integers or len(shape) not in (2, 3) or min(shape) < 1:
            raise InputTypeError(f"XnorClassifier: image_shape must be (H, W) or (H, W, C), got {shape!r}")
        if math.prod(shape) != features:
            raise InputError(
                f"XnorClassifier: image_shape {shape} does not match the {features} features of a row of X"
            )
        return tuple(shape)

    def __repr__(self) -> str:
        said = {name: value for name, value in self.get_params().items() if value is not None}
        return f"XnorClassifier({', '.join(f'{name}={value!r}' for name, value in said.items())})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def __sklearn_tags__(self) -> Any:
        """Return the tags that scikit-learn asks an estimator for."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(three_d_array=True),
        )


def _init_signature() -> inspect.Signature:
    own = [p for p in inspect.signature(XnorClassifier.__init__).parameters.values() if p.name != "settings"]
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in _SETTINGS]
    return inspect.Signature([*own, *more])


XnorClassifier.__init__.__signature__ = _init_signature()  # type: ignore[attr-defined]


def default_network(shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Sequential:
    """Return a small XNOR-Net for images (C, H, W): two binary layers between real layers.

    Rows (images of one pixel) get fully connected layers. Larger images get convolutions, with pooling if large enough.
    """
    channels, *size = shape
    rng, layers = np.random.default_rng(check_integer("seed", seed, 0)), list[nn.Module]()
    if size == [1, 1]:
        layers += [nn.Flatten(), nn.BatchNorm1d(channels), nn.Linear(channels, 64, rng=rng)]
        for _ in range(2):
            layers += [nn.BatchNorm1d(64), nn.BinaryLinear(64, 64, rng=rng), nn.ReLU()]
        return nn.Sequential(*layers, nn.BatchNorm1d(64), nn.Linear(64, classes, rng=rng))
    layers += [nn.Conv2d(channels, 32, 3, padding=1, rng=rng), nn.BatchNorm2d(32), nn.ReLU()]
    for inputs in (32, 64):
        if min(size) >= 8:
            layers.append(nn.MaxPool2d(2))
            size = [pixels // 2 for pixels in size]
        layers += [nn.BatchNorm2d(inputs), nn.BinaryConv2d(inputs, 64, 3, padding=1, rng=rng), nn.ReLU()]
    return nn.Sequential(*layers, nn.BatchNorm2d(64), nn.GlobalAvgPool2d(), nn.Linear(64, classes, rng=rng))


def _packed(network: nn.Module) -> Any:
    try:
        return freeze(network)
    except (InputError, ModelFileError):
        return None


def _labels(y: Any) -> NDArray:
    """Return y as an array (N,)."""
    if y is None:
        raise InputError("XnorClassifier requires y to be passed, but the target y is None")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        message = (
            f"A column-vector y was passed when a 1d array was expected: shape {labels.shape}; its column is taken"
        )
        warnings.warn(message, _of_sklearn("DataConversionWarning", UserWarning), stacklevel=3)
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(f"XnorClassifier: y should be a 1d array, got an array of shape {labels.shape} instead")
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.floor(labels)).all()):
        raise InputError("Unknown label type: continuous. XnorClassifier needs classes: integers, texts or booleans")
    return labels


def _of_sklearn(name: str, other: type) -> Any:
    """Return an exception class of scikit-learn if that is loaded, else `other`."""
    return getattr(sys.modules.get("sklearn.exceptions"), name, other)


def _unfitted(message: str) -> Exception:
    return type("NotFittedError", (InputError, _of_sklearn("NotFittedError", AttributeError)), {})(message)
