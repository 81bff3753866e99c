"""`XnorClassifier` by itself: what it takes, what it says, and that it predicts on bits. No scikit-learn here."""

import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest

import xnor_ref
from tests.conftest import REPOSITORY
from xnor_ref import XnorClassifier, nn
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.training.classifier import default_network
from xnor_ref.training.fit import OF_DATA, SETTINGS

SHORT = {"epochs": 2, "batch_size": 10}


def rows(count=60, features=6, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, features))
    return x, np.where(x[:, 0] > 0, "right", "left")


def pictures(count=40, shape=(8, 8, 3), seed=0):
    """Raw pixels, bright or dark, and which."""
    rng = np.random.default_rng(seed)
    bright = rng.random(count) < 0.5
    noise = rng.integers(0, 120, (count, *shape))
    return (noise + 120 * bright.reshape(-1, *(1,) * len(shape))).astype(np.uint8), bright.astype(int)


def test_it_learns_rows_and_pictures():
    x, y = rows(300)
    found = XnorClassifier(epochs=20, batch_size=20, lr=0.01).fit(x[:200], y[:200])
    assert found.score(x[200:], y[200:]) > 0.85 and list(found.classes_) == ["left", "right"]
    x, y = pictures(80)
    found = XnorClassifier(epochs=10, batch_size=20, lr=0.01).fit(x[:60], y[:60])
    assert found.score(x[60:], y[60:]) > 0.9 and found.n_features_in_ == 8 * 8 * 3
    assert found.predict(x).dtype == y.dtype


def test_it_predicts_what_the_packed_network_answers():
    for x, y in (rows(), pictures()):
        found = XnorClassifier(**SHORT).fit(x, y)
        logits = xnor_ref.freeze(found.network_).logits(
            x if x.dtype == np.uint8 else x.astype(np.float32)[:, :, None, None]
        )
        np.testing.assert_array_equal(found.predict(x), found.classes_[logits.argmax(axis=1)])
        proba = found.predict_proba(x)
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        np.testing.assert_allclose(np.log(proba[:, 0] / proba[:, 1]), logits[:, 0] - logits[:, 1], atol=1e-5)
        assert found.packed_.classes == tuple(map(str, found.classes_)) and len(found.history_) == 2


def test_a_network_that_cannot_be_packed_predicts_itself():
    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    x, y = pictures()
    network = nn.Sequential(nn.Flatten(), Doubled(192, 2, rng=np.random.default_rng(0)))
    found = XnorClassifier(network, **SHORT).fit(x, y)
    pixels = (x / 255 - found.network_.about["mean"]) / found.network_.about["std"]
    logits = found.network_(pixels.transpose(0, 3, 1, 2).astype(np.float32)).data
    assert found.packed_ is None and np.array_equal(found.predict(x), logits.argmax(axis=1))


def test_rows_of_pictures_need_their_shape():
    x, y = pictures()
    whole, flat = XnorClassifier(**SHORT).fit(x, y), XnorClassifier(image_shape=(8, 8, 3), **SHORT)
    assert np.array_equal(flat.fit(x.reshape(40, -1), y).predict_proba(x.reshape(40, -1)), whole.predict_proba(x))
    grey, y = pictures(shape=(8, 8))
    found = [XnorClassifier(**SHORT).fit(some, y).predict_proba(some) for some in (grey, grey[..., None])]
    assert np.array_equal(*found)
    with pytest.raises(InputError, match=r"image_shape \(5, 5\) does not match the 64 features"):
        XnorClassifier(image_shape=(5, 5)).fit(grey.reshape(40, -1), y)
    for wrong in (8, (64,), (8.0, 8.0), "88", (-8, -8)):
        with pytest.raises(InputTypeError, match=r"image_shape must be \(H, W\) or \(H, W, C\), got"):
            XnorClassifier(image_shape=wrong).fit(grey.reshape(40, -1), y)


def test_the_networks_that_it_takes():
    x, y = pictures(shape=(16, 16, 3))
    asked = []

    def make(shape, classes):
        asked.append((shape, classes))
        return default_network(shape, classes)

    given = default_network((3, 16, 16), 2, seed=3)
    before = {name: array.copy() for name, array in given.state_dict().items()}
    for network in (make, given, "shapes-net"):
        found = XnorClassifier(network, **SHORT).fit(x, y)
        assert found.predict(x).shape == (40,) and found.network_ is not given
    assert asked == [((3, 16, 16), 2)] and found.network_.config["name"] == "shapes-net"
    assert all(np.array_equal(before[name], array) for name, array in given.state_dict().items())


def test_settings_are_those_of_fit():
    names = set(inspect.signature(XnorClassifier).parameters)
    assert names == (set(SETTINGS) - OF_DATA) | {"network", "image_shape"} == set(XnorClassifier().get_params())
    found = XnorClassifier(lr=0.1).set_params(lr=0.2, epochs=3)
    assert (found.lr, found.epochs, found.batch_size) == (0.2, 3, None)
    assert repr(found) == "XnorClassifier(epochs=3, lr=0.2)"
    with pytest.raises(InputError, match="no parameter 'learning_rate'; it has network, image_shape, method"):
        found.set_params(learning_rate=1)
    with pytest.raises(TypeError, match="no parameter learning_rate"):
        XnorClassifier(learning_rate=1)
    with pytest.raises(InputError, match="epochs must be at least 1"):
        XnorClassifier(epochs=0).fit(*rows())


def test_the_seed_decides_everything():
    x, y = rows()
    a, b, other = (XnorClassifier(seed=seed, **SHORT).fit(x, y).predict_proba(x) for seed in (0, None, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, other)


def test_copies_predict_the_same():
    x, y = pictures()
    found = XnorClassifier(**SHORT).fit(x, y)
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert np.array_equal(other.predict_proba(x), found.predict_proba(x)) and other.packed_ is not None
    assert not hasattr(pickle.loads(pickle.dumps(XnorClassifier())), "packed_")


X, Y = rows()


@pytest.mark.parametrize(
    "x, y, kind, message",
    [
        (X, Y[:-1], InputError, "60 images but 59 labels"),
        (X, np.full(60, "a"), InputError, "all 60 labels are 'a'; training needs at least two classes"),
        (X[:0], Y[:0], InputError, r"Found array with 0 sample\(s\) \(shape=\(0, 6\)\)"),
        (X[:, :0], Y, InputError, r"Found array with 0 feature\(s\)"),
        (X[:1], Y[:1], InputError, "at least 2 samples, got 1 sample"),
        (np.where(X > 1, np.nan, X), Y, InputError, "X contains NaN, infinity"),
        (X * 1e300, Y, InputError, "too large for float32"),
        (X + 1j, Y, InputError, "Complex data not supported"),
        (np.full((4, 2), "a"), Y[:4], InputTypeError, "X must hold numbers"),
        (X[0], Y, InputError, "Expected 2D array, got 1D array instead"),
        (X, None, InputError, "requires y to be passed"),
        (X, np.array([1, "a"] * 30, object), InputTypeError, "the classes of y cannot be sorted"),
        (X, X[:, 0], InputError, "Unknown label type: continuous"),
        (X, X[:, :2], InputError, r"y should be a 1d array, got an array of shape \(60, 2\)"),
        (X, np.where(Y == "left", np.nan, 1), InputError, "Unknown label type"),
    ],
)
def test_bad_data_is_named(x, y, kind, message):
    with pytest.raises(kind, match=message):
        XnorClassifier().fit(x, y)


def test_bad_data_after_fitting():
    x, y = rows()
    with pytest.raises(InputError, match="not fitted yet") as caught:
        XnorClassifier().predict(x)
    assert isinstance(caught.value, (ValueError, AttributeError))
    found = XnorClassifier(**SHORT).fit(x, y)
    with pytest.raises(InputError, match="X has 2 features, but XnorClassifier is expecting 6 features as input"):
        found.predict(x[:, :2])
    with pytest.raises(InputError, match="X has 60 samples, but y has 3"):
        found.score(x, y[:3])
    pixels, y = pictures()
    found = XnorClassifier(**SHORT).fit(pixels, y)
    with pytest.raises(InputTypeError, match=r"fitted to raw pixels, but X holds normalised numbers \(float32\)"):
        found.predict(pixels / 255)
    with pytest.raises(InputError, match=r"fitted to images \(8, 8, 3\), but X has \(4, 8, 3\)"):
        found.predict(pixels[:, :4])


def test_parameters_that_are_none():
    x, y = rows()
    with pytest.raises(InputError, match="seed must be at least 0, got -3"):
        XnorClassifier(seed=-3).fit(x, y)
    with pytest.raises(InputTypeError, match="network must be a Module of nn or the name of one, got int"):
        XnorClassifier(network=3).fit(x, y)


def test_a_column_of_labels_is_taken_with_a_warning():
    x, y = rows()
    with pytest.warns(UserWarning, match="A column-vector y was passed"):
        found = XnorClassifier(**SHORT).fit(x, y[:, None])
    assert np.array_equal(found.predict(x), XnorClassifier(**SHORT).fit(x, y).predict(x))


def test_scikit_learn_is_not_imported():
    code = (
        "import sys, numpy as np, xnor_ref; x = np.eye(6);"
        "c = xnor_ref.XnorClassifier(epochs=1).fit(x, np.arange(6) % 2); c.predict(x); repr(c);"
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
