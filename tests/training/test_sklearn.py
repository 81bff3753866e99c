"""`XnorClassifier` in scikit-learn: its common checks, and the tools that take an estimator."""

import re
import unittest
import warnings
from importlib.util import find_spec

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from xnor_ref import XnorClassifier, nn

if find_spec("sklearn") is None:
    pytest.skip("needs scikit-learn", allow_module_level=True)

SKIPPED = {  # common checks that do not run, and why; docs/library.md says the same
    "check_array_api_input": "needs SciPy's experimental support of other array libraries switched on",
    "check_classifier_data_not_an_array": "needs pandas",
}


def pytest_generate_tests(metafunc):
    """The common checks are listed only where they run: scikit-learn takes seconds to import."""
    if "check" not in metafunc.fixturenames:
        return
    if not metafunc.config.getoption("--soak"):
        metafunc.parametrize("estimator, check", [])
        return
    from sklearn.utils.estimator_checks import parametrize_with_checks

    with warnings.catch_warnings():  # that it derives from no class of scikit-learn, which is on purpose
        warnings.filterwarnings("ignore", "Estimator XnorClassifier does not inherit")
        listed = parametrize_with_checks([XnorClassifier(epochs=30, batch_size=20, lr=0.015)])
    metafunc.parametrize(*listed.args, **listed.kwargs)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:Estimator XnorClassifier does not inherit")
def test_common_checks(estimator, check):
    name = check.func.__name__
    try:
        check(estimator)
    except unittest.SkipTest:
        assert name in SKIPPED
        raise


def test_skipped_checks_are_told():
    text = (REPOSITORY / "docs" / "library.md").read_text()
    assert all(f"| `{name}` | {reason} |" in text for name, reason in SKIPPED.items())


def test_what_the_page_shows_runs():
    from sklearn.datasets import load_digits

    text = (REPOSITORY / "docs" / "library.md").read_text()
    (block,) = re.findall(r"^```py\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = {"XnorClassifier": XnorClassifier}
    exec(block, shown)
    x, y = load_digits(n_class=2, return_X_y=True)
    search = shown["search"].set_params(estimator__xnorclassifier__epochs=2, cv=2)
    assert search.fit(x[:100], y[:100]).score(x[100:200], y[100:200]) > 0.5


def test_it_works_in_a_pipeline_and_in_a_search():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_digits(n_class=3, return_X_y=True)
    x, y = x[:240], y[:240]
    classifier = XnorClassifier(epochs=6, batch_size=20, lr=0.01)
    scores = cross_val_score(make_pipeline(StandardScaler(), classifier), x, y, cv=3)
    assert scores.shape == (3,) and scores.min() > 0.85
    images = x.reshape(-1, 8, 8)
    search = GridSearchCV(classifier, {"lr": [1e-7, 0.01], "method": [None]}, cv=2).fit(images, y)
    assert search.best_params_["lr"] == 0.01 and search.predict(images[:5]).shape == (5,)


def test_scikit_learn_knows_what_it_is():
    from sklearn.base import clone, is_classifier
    from sklearn.datasets import load_digits
    from sklearn.exceptions import NotFittedError

    x, y = load_digits(n_class=2, return_X_y=True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, rng=np.random.default_rng(0)))
    classifier = XnorClassifier(network, epochs=1, batch_size=30)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        classifier.predict(x)
    classifier.fit(x, y)
    other = clone(classifier)
    assert is_classifier(other) and not hasattr(other, "network_") and other.network is not network
    assert np.array_equal(other.fit(x, y).predict_proba(x), classifier.predict_proba(x))
