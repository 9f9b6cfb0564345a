"""What all trials of a block share in a step: views, and the teacher's answers.

Pure functions; `parallel` lifts them.
"""

import functools

import jax
import jax.numpy as jnp

from kdjax.distill import taps

# Whose variables in a block answer, by `axes.SOURCES`.
_NETWORKS = {
  "trained": "teacher",
  "untrained": "untrained",
  "swapped": "teacher",
}


def networks(answers):
  """The names in a block of the networks that give these `(view, source)`."""
  return tuple(dict.fromkeys(_NETWORKS[source] for _, source in answers))


def answer(block, data, cases, *, teacher, teacher_taps, look):
  """What a block's teacher says of images as they are.

  Args:
    block: `{"teacher": variables}`.
    data: `{"images": [M, S, S] or [M, S, S, 3] uint8}`.
    cases: `[E]`, rows of `data`.
    teacher: linen module.
    teacher_taps: taps of the teacher that the grid's objectives need.
    look: from data and cases to the teacher's input.

  Returns:
    `(logits, features)`: `[E, S, S, K]`, and a dict from tap to
    `[E, h, h, C]`.
  """
  logits, features, _ = taps.apply(
    teacher, block["teacher"], look(data, cases), taps=teacher_taps
  )
  return logits, features


def render_batch(
  block, data, cases, epochs, *, views, render, normalise, teacher_normalise
):
  """What the networks see in a step of a block's trials.

  Views depend on the block, the epoch and the case alone, never on the trial,
  the place in the batch or the number of devices.

  Args:
    block: `{"key"}`: random key.
    data: `{"images": [M, S, S] uint8, "masks": [M, S, S] uint8}`, all cases.
    cases: `[B]`, rows of `data`.
    epochs: `[B]`, the pass over the training cases that each belongs to.
    views: names of the views that a teacher sees in this grid.
    render: from key, image and mask to views and mask.
    normalise: from views in [0, 1] to the trials' input.
    teacher_normalise: the same to the teacher's.

  Returns:
    `(batch, inputs, keys)`: the batch as `train_step` takes it, a dict from
    view to the teacher's `[B, S, S, C]`, and the `[B]` keys of the views.
  """
  keys = jax.vmap(
    lambda case, epoch: jax.random.fold_in(
      jax.random.fold_in(block["key"], epoch), case
    )
  )(cases, epochs)
  rendered, masks = jax.vmap(render)(
    keys, data["images"][cases], data["masks"][cases]
  )
  batch = {"image": normalise(rendered["strong"]), "mask": masks}
  inputs = {
    view: teacher_normalise(rendered[view])
    for view in views
    if view != "cached"
  }
  return batch, inputs, keys


def prepare_batch(
  block,
  data,
  cases,
  epochs,
  *,
  teacher,
  answers,
  teacher_taps,
  carry,
  **rendering,
):
  """Makes what all trials of a block share in a step: views and answers.

  A swapped answer is that about the case before it in the batch, which is drawn
  anew in every pass.

  Args:
    block: `{"key", "teacher"}`: random key and the teacher's variables, and
      `"untrained"`, as many, where they are asked; for view "cached" also
      `{"answers", "rows"}`: by `networks`, what `answer` returned for the
      training images, and `[M]`, where a case stands in it.
    data: `{"images": [M, S, S] uint8, "masks": [M, S, S] uint8}`, all cases.
    cases: `[B]`, rows of `data`.
    epochs: `[B]`, the pass over the training cases that each belongs to.
    teacher: linen module, or None.
    answers: `mapped.answers`, what the grid learns from.
    teacher_taps: taps of the teacher that the grid's objectives need.
    carry: from key and maps to maps in the frame of the views.
    **rendering: what else `render_batch` takes.

  Returns:
    `(batch, teachers)` as `train_step` takes them.
  """
  batch, inputs, keys = render_batch(block, data, cases, epochs, **rendering)

  @functools.cache
  def ask(view, network):
    if view == "cached":
      rows = block["rows"][cases]
      said = jax.tree.map(lambda x: x[rows], block["answers"][network])
      return jax.vmap(carry)(keys, said)
    logits, features, _ = taps.apply(
      teacher, block[network], inputs[view], taps=teacher_taps
    )
    return logits, features

  def find(view, source):
    said = ask(view, _NETWORKS[source])
    if source == "swapped":
      return jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), said)
    return said

  return batch, tuple(find(*answer) for answer in answers)
