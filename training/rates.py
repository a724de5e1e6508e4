"""Learning rates: how large the steps of a training are, from the first to the last."""

from typing import Any

import keras


class InTurn(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
    """Two schedules, the second from the step `change` on, which is its step 0."""

    def __init__(
        self,
        first: keras.optimizers.schedules.LearningRateSchedule,
        second: keras.optimizers.schedules.LearningRateSchedule,
        change: int,
    ) -> None:
        self._first, self._second, self._change = first, second, change

    def __call__(self, step: Any) -> Any:
        """The learning rate of that step."""
        return keras.ops.where(step < self._change, self._first(step), self._second(step - self._change))

    def get_config(self) -> dict[str, Any]:
        """What it was made with."""
        return {"first": self._first, "second": self._second, "change": self._change}


def warmed_cosine(peak: float, warm_up_steps: int, decay_steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A rate that climbs to the peak in the first steps, and then falls to 0 along a cosine in the others."""
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0, decay_steps=max(1, decay_steps), warmup_target=peak, warmup_steps=warm_up_steps
    )
