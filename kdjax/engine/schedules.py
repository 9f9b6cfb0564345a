"""Learning rates over a training: static, with peak 1.

A trial multiplies them with a rate of its own, which is data. They depend on
the count of steps alone, which is not mapped over trials.
"""

import optax

# Under which the rate is low at the end, so that a trial has to get there.
DECAYING = ("cosine",)
SCHEDULES = ("constant", *DECAYING)


def make(training, steps_per_epoch):
  """From the count of steps done to the part of the peak rate, 0 to 1.

  `warmup` of all steps rise in a line to the peak; "cosine" falls from there
  to 0 at the end (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983,
  without restarts), "constant" stays.

  Args:
    training: `schedule`, `warmup` and `max_epochs` of a config's training.
    steps_per_epoch: number of steps.
  """
  steps = training.max_epochs * steps_per_epoch
  rising = round(training.warmup * steps)
  falling = {
    "constant": optax.constant_schedule(1.0),
    "cosine": optax.cosine_decay_schedule(1.0, max(steps - rising, 1)),
  }[training.schedule]
  if not rising:
    return falling
  # From the first step on, or that one would be lost.
  rise = optax.linear_schedule(1.0 / (rising + 1), 1.0, rising)
  return optax.join_schedules([rise, falling], [rising])
