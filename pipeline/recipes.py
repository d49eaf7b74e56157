"""The recipes: everything that decides how a network is trained, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """Bounds of the random affine change that each digit gets in each epoch, drawn uniformly from -bound to +bound."""

    rotation: float = 0.0  # degrees
    scale: float = 0.0  # share of the size
    shear: float = 0.0  # degrees
    shift: float = 0.0  # pixels


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. `about` says in one sentence what for."""

    name: str
    about: str
    network: str
    epochs: int
    epochs_on_tenth: int  # the tenth has a tenth of the steps an epoch, and needs more of them
    batch_size: int
    batch_size_on_gpu: int
    learning_rate: float  # the peak, where the schedule is one cycle
    one_cycle: bool = False  # Smith & Topin, "Super-Convergence" (2018); a constant rate otherwise
    weight_decay: float = 0.0  # decoupled: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (2019)
    label_smoothing: float = 0.0  # Szegedy et al., "Rethinking the Inception Architecture" (2016)
    averaging: float = 0.0  # decay of the exponential moving average of the weights, 0 for none; Polyak (1992)
    augmentation: Augmentation = Augmentation()


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="chapter",
            about="The chapter's network, trained to the letter of the chapter.",
            network="MNISTConvNet",
            epochs=5,
            epochs_on_tenth=5,
            batch_size=16,
            batch_size_on_gpu=64,
            learning_rate=1e-3,
        ),
        Recipe(
            name="dense",
            about="The dense network that the chapter beats, trained the same way.",
            network="DenseNet",
            epochs=5,
            epochs_on_tenth=5,
            batch_size=16,
            batch_size_on_gpu=64,
            learning_rate=1e-3,
        ),
        Recipe(
            name="default",
            about="The chapter's network, trained well: past 99.5 % in a fraction of the chapter's time.",
            network="MNISTConvNet",
            epochs=8,
            epochs_on_tenth=40,
            batch_size=128,
            batch_size_on_gpu=128,
            learning_rate=4e-3,
            one_cycle=True,
            weight_decay=0.01,
            label_smoothing=0.05,
            averaging=0.998,
            augmentation=Augmentation(rotation=10, scale=0.1, shear=8, shift=2),
        ),
    )
}
