"""The scheduler of a checkpoint -> a fresh one for one prediction. Knows nothing of networks."""

from typing import Any

from marigold_demo.errors import SettingsError


def make_scheduler(recipe: Any, *, steps: int) -> Any:
    """Return a scheduler like the given one, set to a number of steps.

    Raises:
        SettingsError: It cannot take so many.
    """
    scheduler = type(recipe).from_config(recipe.config)
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise SettingsError(f"This checkpoint cannot take {steps} steps; choose fewer.") from error
    return scheduler
