"""Smaller images in the first epochs: which steps take them, and what cannot."""

import numpy as np
import pytest

from tests.training.test_job import data_dir
from tests.training.test_trainer import STEPS, data, trainer_of
from tests.training.training_samples import tiny_config
from xnor_ref.datasets.batches import resized
from xnor_ref.errors import InputError
from xnor_ref.packed import load_packed
from xnor_ref.training.callbacks.image_size import SmallerImages
from xnor_ref.training.fitting.trainer import Callback
from xnor_ref.training.job import train_run

__all__ = ["data", "data_dir"]  # fixtures


class Seen(Callback):
    def __init__(self):
        self.images = []

    def after_step(self, trainer, step):
        self.images.append(step.images)


def test_the_first_epochs_see_smaller_images(data):
    seen, trainer = Seen(), trainer_of(data)
    trainer.callbacks += [SmallerImages(trainer.model, data, 8, 1), seen]
    trainer.fit()
    assert [images.shape for images in seen.images] == [(4, 3, 8, 8)] * STEPS + [(4, 3, 16, 16)] * STEPS
    np.testing.assert_array_equal(seen.images[1], resized(trainer.batch(0, 1)[0], 8))
    np.testing.assert_array_equal(seen.images[-1], trainer.batch(1, STEPS - 1)[0])


def test_what_cannot_be_smaller_is_refused(data_dir, tmp_path):
    for changes, said in (
        ({"small_images": 64}, r"small_images \(=64\) must be less than the images' shorter side, 64"),
        ({"small_images": 32, "method": "xnor++"}, r"small_images \(=32\): the network takes only images of one size"),
        ({"small_share": 0.5}, r"small_share \(=0.5\) needs small_images"),
    ):
        with pytest.raises(InputError, match=said):
            train_run(tiny_config(data_dir, **changes), out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_the_packed_network_is_of_whole_images(data_dir, tmp_path):
    report = train_run(tiny_config(data_dir, small_images=32, small_share=0.4), out=tmp_path / "run")
    assert report["disagreements"] == 0 and load_packed(tmp_path / "run/model.safetensors").input_shape == (3, 64, 64)
