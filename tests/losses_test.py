"""Every loss keeps its promises and its paper's formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distill import losses

every_loss = pytest.mark.parametrize("name", losses.LOSSES)


@pytest.fixture(autouse=True)
def _exact():
  with jax.enable_x64(True):
    yield


def outputs(seed, scale=1.0, channels=5):
  rng = np.random.default_rng(seed)
  return jnp.asarray(scale * rng.normal(size=(4, 3, 2, channels)))


def make_classes(lesions=True):
  """Memberships of positions in background and lesion, some of them shared."""
  part = np.random.default_rng(9).choice([0.0, 0.25, 1.0], size=(4, 3, 2, 1))
  part = part * lesions
  return jnp.asarray(np.concatenate([1.0 - part, part], axis=-1))


def value(name, s, t, tau=1.0, classes=None):
  classes = make_classes() if classes is None else classes
  if losses.LOSSES[name].few:  # Its channels are classes.
    more = s.shape[-1] - classes.shape[-1]
    classes = jnp.pad(classes, ((0, 0),) * 3 + ((0, more),))
  return losses.LOSSES[name].function(s, t, tau, classes)


# The formulas in numpy, loop by loop, for one batch `[B, N, C]`.


def softmax(x, axis):
  e = np.exp(x - x.max(axis, keepdims=True))
  return e / e.sum(axis, keepdims=True)


def divergence(s, t, tau, axis):
  p, q = softmax(t / tau, axis), softmax(s / tau, axis)
  return tau**2 * (p * np.log(p / q)).sum(axis)


def cosine(a, b):
  return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def numpy_at(s, t, tau, classes):
  look = lambda x: (x**2).sum(-1) / np.linalg.norm((x**2).sum(-1))
  return [((look(a) - look(b)) ** 2).sum() for a, b in zip(s, t, strict=True)]


def numpy_pkd(s, t, tau, classes):
  """1 - Pearson's r, channel by channel over all positions of the batch."""
  r = [
    np.corrcoef(s[..., c].ravel(), t[..., c].ravel())[0, 1]
    for c in range(s.shape[-1])
  ]
  return 1.0 - np.mean(r)


def numpy_sp(s, t, tau, classes):
  def gram(x):
    rows = x.reshape(len(x), -1)
    g = np.array([[a @ b for b in rows] for a in rows])
    return g / np.linalg.norm(g, axis=1, keepdims=True)

  return ((gram(s) - gram(t)) ** 2).sum() / len(s) ** 2


def numpy_skd(s, t, tau, classes):
  affinity = lambda x: np.array([[cosine(a, b) for b in x] for a in x])
  return [
    ((affinity(a) - affinity(b)) ** 2).mean() for a, b in zip(s, t, strict=True)
  ]


def prototypes(x, m):
  return np.array(
    [sum(w * v for w, v in zip(m[:, k], x, strict=True)) for k in (0, 1)]
  ) / m.sum(0).reshape(2, 1)


def numpy_ifvd(s, t, tau, classes):
  def closeness(x, m):
    own = m @ prototypes(x, m)
    return np.array([cosine(v, p) for v, p in zip(x, own, strict=True)])

  return [
    ((closeness(a, m) - closeness(b, m)) ** 2).mean()
    for a, b, m in zip(s, t, classes, strict=True)
  ]


def numpy_rad(s, t, tau, classes):
  contrast = lambda x, m: cosine(*prototypes(x, m))
  return [
    (contrast(a, m) - contrast(b, m)) ** 2
    for a, b, m in zip(s, t, classes, strict=True)
  ]


def kl(p, q):
  return (p * np.log(p / q)).sum()


def numpy_dkd(s, t, tau, classes):
  def parts(x, target):
    p = softmax(x / tau, 0)
    rest = np.delete(p, target)
    return np.array([p[target], rest.sum()]), rest / rest.sum()

  def one(a, b, m):
    (ours, among), (theirs, beside) = (parts(x, m.argmax()) for x in (a, b))
    return tau**2 * (kl(theirs, ours) + 8 * kl(beside, among))

  return [
    np.mean([one(*x) for x in zip(*case, strict=True)])
    for case in zip(s, t, classes, strict=True)
  ]


def numpy_dist(s, t, tau, classes):
  """1 - Pearson's r, over classes by position and over positions by class."""
  p, q = (softmax(x / tau, -1).reshape(-1, x.shape[-1]) for x in (s, t))
  apart = lambda a, b: np.mean(
    [1 - np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
  )
  return tau**2 * (apart(p, q) + apart(p.T, q.T))


def numpy_lskd(s, t, tau, classes):
  z = lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  return divergence(z(s), z(t), tau, -1).mean(-1)


FORMULAS = {
  "MSE": lambda s, t, tau, classes: ((s - t) ** 2).mean((1, 2)),
  "KLD": lambda s, t, tau, classes: divergence(s, t, tau, -1).mean(-1),
  "CWD": lambda s, t, tau, classes: divergence(s, t, tau, 1).mean(-1),
  "FitNets": lambda s, t, tau, classes: (
    np.linalg.norm(s - t, axis=-1) ** 2 / 2
  ).mean(-1),
  "AT": numpy_at,
  "PKD": numpy_pkd,
  "SP": numpy_sp,
  "SKD": numpy_skd,
  "IFVD": numpy_ifvd,
  "RAD": numpy_rad,
  "DKD": numpy_dkd,
  "DIST": numpy_dist,
  "LSKD": numpy_lskd,
}
# Over the batch as a whole: their number is the mean of `[B]`.
WHOLE = ("PKD", "SP", "DIST")


@every_loss
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_loss_is_its_formula(name, tau):
  s, t, classes = outputs(0), outputs(1), make_classes()
  got = value(name, s, t, tau, classes)
  assert got.shape == (4,)
  flat = lambda x: np.asarray(x).reshape(4, 6, -1)
  expected = FORMULAS[name](flat(s), flat(t), tau, flat(classes))
  got = got.mean() if name in WHOLE else got
  np.testing.assert_allclose(got, expected, rtol=1e-9)


@every_loss
@pytest.mark.parametrize("lesions", [True, False], ids=["lesion", "none"])
def test_loss_is_zero_and_its_gradient_finite_at_the_teacher(name, lesions):
  # A trial that does not pick this loss still computes it.
  x, classes = outputs(0), make_classes(lesions)
  np.testing.assert_allclose(value(name, x, x, 2.0, classes), 0.0, atol=1e-12)
  gradient = jax.grad(lambda s: jnp.sum(value(name, s, x, 2.0, classes)))(x)
  assert jnp.all(jnp.isfinite(gradient))


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_loss_is_finite_for_flat_and_for_extreme_outputs(name, scale):
  s, t = (outputs(i, scale).astype(jnp.float32) for i in (0, 1))
  classes = make_classes(False).astype(jnp.float32)
  number, gradient = jax.value_and_grad(
    lambda s: jnp.sum(value(name, s, t, 1.0, classes))
  )(s)
  assert jnp.isfinite(number)
  assert jnp.all(jnp.isfinite(gradient))


@every_loss
def test_loss_teaches_the_student_away_from_the_teacher(name):
  s, t = outputs(0), outputs(1)
  gradient = jax.grad(lambda s: jnp.sum(value(name, s, t)))(s)
  assert jnp.linalg.norm(gradient) > 1e-3


@pytest.mark.parametrize(
  "name", [name for name, loss in losses.LOSSES.items() if loss.relational]
)
def test_a_relational_loss_takes_another_width(name):
  assert value(name, outputs(0, channels=3), outputs(1)).shape == (4,)


def test_rad_is_nothing_where_there_is_no_lesion():
  got = value("RAD", outputs(0), outputs(1), classes=make_classes(False))
  np.testing.assert_allclose(got, 0.0, atol=1e-12)


def test_pairwise_pools_large_maps_to_nodes():
  """As many nodes as a block average of the map has."""
  rng = np.random.default_rng(0)
  coarse = [jnp.asarray(rng.normal(size=(1, 16, 16, 3))) for _ in range(2)]
  fine = [jnp.repeat(jnp.repeat(x, 4, axis=1), 4, axis=2) for x in coarse]
  got = jax.make_jaxpr(lambda s, t: value("SKD", s, t))(*fine)
  assert "256,256" in str(got) and "4096,4096" not in str(got)


def test_temperature_keeps_the_size_of_the_gradient():
  # Without tau squared it would shrink by 1 / 64 from 1 to 8; with small
  # outputs both are the same quadratic form.
  s, t = outputs(0, 0.01), outputs(1, 0.01)
  for name in ("KLD", "CWD"):
    size = lambda tau, name=name: jnp.linalg.norm(
      jax.grad(lambda s: jnp.sum(value(name, s, t, tau)))(s)
    )
    np.testing.assert_allclose(size(8.0), size(1.0), rtol=0.02)


@every_loss
def test_temperature_is_read_or_said_not_to_be(name):
  s, t = outputs(0), outputs(1)
  same = np.array_equal(value(name, s, t, 1.0), value(name, s, t, 8.0))
  assert same != losses.LOSSES[name].softened


def test_kld_does_not_depend_on_the_number_of_positions():
  # `batchmean` over [B, H, W, K] would be N times too large.
  s, t = outputs(0), outputs(1)
  twice = lambda x: jnp.concatenate([x, x], axis=1)
  np.testing.assert_allclose(
    value("KLD", twice(s), twice(t), classes=twice(make_classes())),
    value("KLD", s, t),
    rtol=1e-9,
  )
