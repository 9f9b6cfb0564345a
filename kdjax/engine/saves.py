"""When a stage is saved, and what saving has cost."""

import contextlib
import time


class Cadence:
  """When to save, and what saving has cost."""

  def __init__(self, engine):
    self._engine = engine
    self._epochs = 0
    self._last = self._begun = time.monotonic()
    self.saves = 0
    self.seconds = 0.0

  def due(self):
    """Whether an epoch that ends now should be saved."""
    self._epochs += 1
    minutes = (time.monotonic() - self._last) / 60
    by_epochs = self._engine.checkpoint_epochs
    return minutes >= self._engine.checkpoint_minutes or (
      by_epochs and self._epochs >= by_epochs
    )

  @contextlib.contextmanager
  def saving(self):
    """Times a save in its body, and counts anew from it."""
    begun = time.monotonic()
    yield
    self._last = time.monotonic()
    self._epochs = 0
    self.saves += 1
    self.seconds += self._last - begun

  def __str__(self):
    total = time.monotonic() - self._begun
    return (
      f"checkpoints: {self.saves} saves, {self.seconds:.2f} s of {total:.0f} s"
    )
