"""Projections of latent weights."""

from xnor_ref.training.fitting.trainer import Callback, Step, Trainer


class Projections(Callback):
    """Runs each layer's `Module.after_step` after a step, which centres or clamps its latent weights."""

    def after_step(self, trainer: Trainer, step: Step) -> None:
        for _, module in trainer.model.named_modules():
            module.after_step()
