"""Distillation losses: pure functions, one number per example.

A loss compares what student and teacher say about the same batch: maps
`[B, h, w, C]` on one grid, which a pathway made comparable. All losses have
one signature, `(student, teacher, temperature, classes)` to `[B]`, and read
what they need of it:

  student, teacher: `[B, h, w, C]`; a relational loss takes different `C`.
  temperature: above 0.
  classes: `[B, h, w, K]`, the part of each position that belongs to each
    class; sums to 1.

All are 0 with a finite gradient at student = teacher, and finite where a class
or a signal is missing. Weighting, averaging over the batch and choosing
between losses belong to `steps`.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import typing

import jax.numpy as jnp

from kdjax.distill import classwise
from kdjax.distill import maps
from kdjax.distill import relations


def mse(student, teacher, temperature, classes):
  """Mean squared difference over positions and channels."""
  del temperature, classes
  return jnp.mean((student - teacher) ** 2, axis=(1, 2, 3))


def kld(student, teacher, temperature, classes):
  """KL(teacher || student) over channels: sum over them, mean over positions.

  `tau^2 * mean_n sum_c P log(P / Q)` with `P, Q = softmax_c(. / tau)`. The
  factor keeps the gradient's size as the temperature changes (Hinton et al.,
  https://arxiv.org/abs/1503.02531).
  """
  del classes
  divergence = maps.divergence(
    student, teacher, temperature, axis=-1
  )  # [B, h, w]
  return jnp.mean(divergence, axis=(1, 2))


def channel_wise(student, teacher, temperature, classes):
  """CWD: KL(teacher || student) over positions, mean over channels.

  `tau^2 / C * sum_c sum_n P log(P / Q)` with `P, Q = softmax_n(. / tau)` (Shu
  et al., https://arxiv.org/abs/2011.13256).
  """
  del classes
  s, t = maps.positions(student), maps.positions(teacher)  # [B, N, C]
  return jnp.mean(maps.divergence(s, t, temperature, axis=1), axis=-1)


def hint(student, teacher, temperature, classes):
  """FitNets: half the squared distance of feature vectors, mean over positions.

  `mean_n 1/2 |r(S_n) - T_n|^2`; the pathway's regressor is `r` (Romero et al.,
  https://arxiv.org/abs/1412.6550, equation 3).
  """
  del temperature, classes
  return 0.5 * jnp.mean(jnp.sum((student - teacher) ** 2, axis=-1), axis=(1, 2))


def pearson(student, teacher, temperature, classes):
  """PKD: 1 - the correlation of every channel, over positions and the batch.

  `1/2 * mean (Z_S - Z_T)^2`, `Z` being standardised channel by channel over
  the batch's positions (Cao et al., https://arxiv.org/abs/2207.02039).
  """
  del temperature, classes
  standard = lambda x: maps.standardise(x, (0, 1, 2))
  gap = standard(student) - standard(teacher)
  return 0.5 * jnp.mean(gap**2, axis=(1, 2, 3))


class Weight(typing.NamedTuple):
  """What authors multiply a loss by, beside a supervised loss of weight 1.

  Attributes:
    value: above 0, of the loss as it is here: theirs is normalised alike.
    source: where they say so.
    temperature: theirs, for a loss that reads one.
  """

  value: float
  source: str
  temperature: float | None = None

  @property
  def alpha(self):
    """The part of both weights' sum, whose ratio is all that Adam sees."""
    return self.value / (1 + self.value)


@dataclasses.dataclass(frozen=True)
class Loss:
  """A loss and what has to hold for it to say anything.

  Attributes:
    function: of this module.
    relational: compares relations within each network, so that widths may
      differ; others compare number with number.
    over: "channels", "positions" or "cases": what it normalises over, of which
      one alone makes it constant. "" if nothing.
    softened: reads the temperature.
    pathways: those under which it is what its paper means.
    because: why not under the others.
    distance: whether it is 0 at equal numbers alone, whatever their scale or
      order; a student that cannot have them is pulled nowhere.
    few: why two channels are too few, where they are; else "".
    weights: by pathway, its authors' `Weight` where they published one.
  """

  function: Callable
  relational: bool = False
  over: str = ""
  softened: bool = False
  pathways: tuple[str, ...] = ("L", "H", "HReg")
  because: str = "its paper does not define it there"
  distance: bool = False
  few: str = ""
  weights: Mapping[str, Weight] = dataclasses.field(default_factory=dict)


def _at_levels(*weight):
  """A `Weight` of levels, as they are and behind a regressor."""
  return dict.fromkeys(("H", "HReg"), Weight(*weight))


def _of_classes(function, few, over="channels", **more):
  """A `Loss` of three classes and more."""
  return Loss(
    function,
    over=over,
    softened=True,
    pathways=("L",),
    because="it is of classes, which logits alone have",
    few=few,
    **more,
  )


_EMKD = "EMKD, https://arxiv.org/abs/2108.09987, its train_kd.py"
_CWD = "https://arxiv.org/abs/2011.13256"
_BY_CHANNEL = "it compares channel by channel, and H averages channels away"

# A config names a loss by one of these.
LOSSES = {
  "MSE": Loss(mse, distance=True),
  "KLD": Loss(
    kld,
    over="channels",
    softened=True,
    weights={"L": Weight(0.1, _EMKD, 4.0)},
  ),
  "CWD": Loss(
    channel_wise,
    over="positions",
    softened=True,
    pathways=("L", "HReg"),
    because=f"{_BY_CHANNEL}, which leaves H_KLD",
    weights={
      "L": Weight(3.0, f"{_CWD}, its code's README", 4.0),
      "HReg": Weight(50.0, f"{_CWD}, as CIRKD runs it", 4.0),
    },
  ),
  "FitNets": Loss(
    hint,
    pathways=("HReg",),
    because="it is a distance behind a regressor",
    distance=True,
  ),
  "AT": Loss(relations.attention, relational=True, over="positions"),
  "PKD": Loss(
    pearson,
    over="cases",
    pathways=("L", "HReg"),
    because=_BY_CHANNEL,
    weights={
      "HReg": Weight(
        6.0, "https://arxiv.org/abs/2207.02039, its configs in mmrazor"
      )
    },
  ),
  "SP": Loss(
    relations.similarity,
    relational=True,
    over="cases",
    weights=_at_levels(
      3000.0, "https://arxiv.org/abs/1907.09682, as CRD runs it"
    ),
  ),
  "SKD": Loss(
    relations.pairwise,
    relational=True,
    over="positions",
    weights=_at_levels(
      0.5, "https://arxiv.org/abs/1903.04197, its code's run_train_val.sh"
    ),
  ),
  "IFVD": Loss(
    relations.variation,
    relational=True,
    over="positions",
    weights=_at_levels(200.0, "its authors' code, options.py"),
  ),
  "RAD": Loss(
    relations.region_affinity,
    relational=True,
    over="positions",
    weights=_at_levels(0.9, _EMKD),
  ),
  "DKD": _of_classes(
    classwise.decoupled,
    "with two classes its non-target term has no gradient and the rest is KLD",
    weights={
      "L": Weight(1.0, "https://arxiv.org/abs/2203.08679, its configs", 4.0)
    },
  ),
  "DIST": _of_classes(
    classwise.correlations,
    "with two classes its inter-class term has next to no gradient",
    over="cases",
  ),
  "LSKD": _of_classes(
    classwise.standardised,
    "standardising two logits leaves only their order",
  ),
}
