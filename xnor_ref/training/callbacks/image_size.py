"""Smaller images in the first epochs."""

import numpy as np

from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.datasets import Dataset
from xnor_ref.datasets.batches import resized
from xnor_ref.errors import InputError
from xnor_ref.nn import Module
from xnor_ref.training.fitting.trainer import Callback, Step, Trainer


class SmallerImages(Callback):
    """Trains on smaller images until some epoch, then on whole images. Validation always uses whole images.

    An image is first cropped and mirrored, then shrunk.

    Parameters
    ----------
    size : pixels of the shorter side of the small images
    until : number of epochs with small images

    Raises
    ------
    InputError : the images are not larger than `size`, or the network takes images of one size only
    """

    def __init__(self, model: Module, data: Dataset, size: int, until: int) -> None:
        shorter = min(data.train.images.shape[1:3])
        if size >= shorter:
            raise InputError(f"small_images (={size}) must be less than the images' shorter side, {shorter}")
        one = resized(np.zeros((1, data.channels, *data.train.images.shape[1:3]), np.float32), size)
        training = model.training
        try:
            with no_grad():
                model.eval()(Tensor(one))
        except InputError as error:
            raise InputError(f"small_images (={size}): the network takes only images of one size: {error}") from None
        finally:
            model.train(training)
        self._size, self._until = size, until

    def before_step(self, trainer: Trainer, step: Step) -> None:
        if trainer.position.epoch < self._until:
            step.images = resized(step.images, self._size)
