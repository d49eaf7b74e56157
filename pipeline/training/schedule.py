"""The learning rate of each step of a training: the same throughout, or one cycle."""

import torch
from torch.optim.lr_scheduler import OneCycleLR

from pipeline.recipes import Recipe


def make_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> OneCycleLR | None:
    """What sets the learning rate of each of so many steps; None where it stays as it is.

    Source: Smith & Topin, "Super-Convergence" (2018).
    """
    if not recipe.one_cycle:
        return None
    return OneCycleLR(optimizer, recipe.learning_rate, steps, pct_start=recipe.warm_up, cycle_momentum=False)


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """The learning rate of each of so many steps, as training takes them."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], recipe.learning_rate)
    schedule = make_schedule(recipe, optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()  # of nothing, but torch warns of a schedule without it
        if schedule:
            schedule.step()
    return rates
