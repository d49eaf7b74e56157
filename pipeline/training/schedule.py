"""Learning rate schedules: constant or one cycle."""

import torch
from torch.optim.lr_scheduler import OneCycleLR

from pipeline.recipes import Recipe


def make_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> OneCycleLR | None:
    """Create the one-cycle schedule over `steps` steps, or None if the recipe's rate is constant.

    Source: Smith & Topin, "Super-Convergence" (2018).
    """
    if not recipe.one_cycle:
        return None
    # torch divides by the length of the warm-up minus one.
    warm_up = 0.0 if recipe.warm_up * steps == 1 else recipe.warm_up
    return OneCycleLR(optimizer, recipe.learning_rate, steps, pct_start=warm_up, cycle_momentum=False)


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """Compute the learning rate of each training step, for pictures."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], recipe.learning_rate)
    schedule = make_schedule(recipe, optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()  # changes nothing; torch warns if a schedule steps without it
        if schedule:
            schedule.step()
    return rates
