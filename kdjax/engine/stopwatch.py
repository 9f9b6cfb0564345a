"""Wall time without compiling, which a run pays once and not every epoch."""

import time

import jax

_COMPILING = "/jax/core/compile/"  # Tracing, lowering and XLA itself.


class Stopwatch:
  """Measures from its making until `stop`; JAX tells it when it compiles."""

  def __init__(self):
    self._compiling = []
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    self._begin = time.monotonic()

  def stop(self):
    """Seconds since the beginning in which nothing was compiled."""
    seconds = time.monotonic() - self._begin
    jax.monitoring.unregister_event_duration_listener(self._listen)
    end = self._begin
    for first, last in sorted(self._compiling):  # One holds another: a union.
      seconds -= max(0.0, last - max(first, end))
      end = max(end, last)
    return seconds

  def _listen(self, event, duration, **_):
    if event.startswith(_COMPILING):
      now = time.monotonic()
      self._compiling.append((now - duration, now))
