"""Bring latent weights back to where they may be."""

from xnor_ref.training.fitting.trainer import Callback, Step, Trainer


class Projections(Callback):
    """Lets each layer project its latent weights after a step (`Module.after_step`): centre or clamp them."""

    def after_step(self, trainer: Trainer, step: Step) -> None:
        for _, module in trainer.model.named_modules():
            module.after_step()
