"""Which cases a block's batches have, in which order."""

import numpy as np


def draw(train, block, step, steps, batch_size):
  """The cases of `steps` batches after `step` of them, shuffled anew each pass.

  The stream runs on over the borders of passes, so batches keep one shape and
  no case is dropped; it depends on the block alone, so any step can be found
  again.

  Args:
    train: rows of the data set.
    block: `Block`.
    step: steps done before.
    steps: steps to come, `T`.
    batch_size: `B`.

  Returns:
    `{"cases", "epochs": [T, B], "counts": [T]}`, int32.
  """
  positions = step * batch_size + np.arange(steps * batch_size)
  passes, places = np.divmod(positions, len(train))
  cases = np.concatenate(
    [
      np.random.default_rng((block.seed, block.fold, p)).permutation(train)[
        places[passes == p]
      ]
      for p in np.unique(passes)
    ]
  )
  shape = lambda x: x.reshape(steps, batch_size).astype(np.int32)
  return {
    "cases": shape(cases),
    "epochs": shape(passes),
    "counts": np.arange(step, step + steps, dtype=np.int32),
  }
