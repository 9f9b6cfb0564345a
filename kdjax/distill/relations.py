"""Losses that compare what each network makes of its own positions and cases.

They are relational: what they compare has no channels, so that widths may
differ. Signature, axes and promises are those of `losses`.
"""

import jax
import jax.numpy as jnp

from kdjax.distill import maps

# Nodes of `pairwise` along a side; all pairs of more would not fit in memory.
_NODES = 16


def attention(student, teacher, temperature, classes):
  """AT: squared distance between where the two networks look.

  `|Q_S / |Q_S| - Q_T / |Q_T||^2` with `Q_n = sum_c A_nc^2` (Zagoruyko and
  Komodakis, https://arxiv.org/abs/1612.03928, equation 2 with p = 2; squared,
  as in the authors' code, since the norm has no gradient at 0).
  """
  del temperature, classes
  look = lambda x: _unit(jnp.sum(maps.positions(x) ** 2, axis=-1))  # [B, N]
  return jnp.sum((look(student) - look(teacher)) ** 2, axis=-1)


def similarity(student, teacher, temperature, classes):
  """SP: distance between which cases of the batch the two find alike.

  `1/B^2 |G_S - G_T|^2` with the rows of `G = Q Q^T` scaled to length 1, a row
  of `Q` being a case's map (Tung and Mori, https://arxiv.org/abs/1907.09682).
  The mean over the `[B]` returned is the paper's number.
  """
  del temperature, classes

  def resemblance(x):
    x = x.reshape(x.shape[0], -1)
    return _unit(x @ x.T)  # [B, B]

  return jnp.mean((resemblance(student) - resemblance(teacher)) ** 2, axis=-1)


def pairwise(student, teacher, temperature, classes):
  """SKD's pair-wise term: which positions of an image the two find alike.

  `1/N^2 sum_ij (a_S - a_T)^2` with `a_ij` the cosine of positions i and j (Liu
  et al., https://arxiv.org/abs/1903.04197, pair-wise distillation). Maps larger
  than 16 x 16 are averaged down to that many nodes, as the paper pools patches.
  """
  del temperature, classes

  def affinity(x):
    b, h, w, c = x.shape
    nodes = (b, min(h, _NODES), min(w, _NODES), c)
    if x.shape != nodes:
      x = jax.image.resize(x, nodes, "bilinear")
    x = _unit(maps.positions(x))
    return x @ x.swapaxes(1, 2)  # [B, N, N]

  return jnp.mean((affinity(student) - affinity(teacher)) ** 2, axis=(1, 2))


def variation(student, teacher, temperature, classes):
  """IFVD: how the features of a class vary around the class's mean.

  `1/N sum_n (M_S - M_T)^2` with `M_n` the cosine of position n and the
  prototype of its class in its image (Wang et al., "Intra-class Feature
  Variation Distillation for Semantic Segmentation", ECCV 2020).
  """
  del temperature
  classes = maps.positions(classes)  # [B, N, K]

  def closeness(x):
    x = maps.positions(x)
    own = classes @ _prototypes(x, classes)  # [B, N, C]
    return jnp.sum(_unit(x) * _unit(own), axis=-1)  # [B, N]

  return jnp.mean((closeness(student) - closeness(teacher)) ** 2, axis=-1)


def region_affinity(student, teacher, temperature, classes):
  """RAD: how alike the regions of two classes are, mean over pairs of classes.

  `(cos(v_S1, v_S2) - cos(v_T1, v_T2))^2` with `v_k` the mean feature of class
  k in an image; 0 where an image lacks a class (EMKD's region affinity
  distillation; Qin et al., https://arxiv.org/abs/2108.09987).
  """
  del temperature
  classes = maps.positions(classes)  # [B, N, K]

  def contrast(x):
    regions = _unit(_prototypes(maps.positions(x), classes))  # [B, K, C]
    cosines = regions @ regions.swapaxes(1, 2)  # [B, K, K]
    first, second = jnp.triu_indices(classes.shape[-1], k=1)
    return cosines[:, first, second]  # [B, pairs]

  return jnp.mean((contrast(student) - contrast(teacher)) ** 2, axis=-1)


def _unit(x):
  """Scales the last axis to length 1; leaves zeros, with a finite gradient."""
  return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + maps.TINY)


def _prototypes(x, classes):
  """Mean of `[B, N, C]` over each class: `[B, K, C]`, 0 for a missing one."""
  size = jnp.sum(classes, axis=1)[..., None]  # [B, K, 1]
  return classes.swapaxes(1, 2) @ x / jnp.maximum(size, maps.TINY)
