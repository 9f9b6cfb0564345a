"""What would distil nothing is told from shapes; what would is let through."""

import jax
import jax.numpy as jnp
import pytest

from kdjax.distill import losses
from kdjax.distill import pathways
from kdjax.distill import sense
from kdjax.distill import trials

PAIRS = (("encoder1", "encoder1", 1.0),)


def ask(pathway, loss, student=(4, 4, 3), teacher=(4, 4, 3), batch_size=2):
  pairs = () if pathway == "L" else PAIRS
  objective = trials.Objective(pathway, loss, pairs)
  return sense.objection(objective, student, teacher, batch_size)


@pytest.mark.parametrize(
  ("pathway", "loss", "shapes", "said"),
  [
    ("L", "KLD", dict(student=(4, 4, 1), teacher=(4, 4, 1)), "softmax"),
    ("HReg", "KLD", dict(teacher=(4, 4, 1)), "softmax"),
    ("H", "KLD", dict(teacher=(1, 1, 8)), "softmax"),
    ("H", "AT", dict(teacher=(1, 1, 8)), "one position"),
    ("HReg", "CWD", dict(student=(1, 1, 8)), "one position"),
    ("H", "SP", dict(batch_size=1), "batch size above 1"),
    ("L", "FitNets", {}, "choose pathway HReg"),
    ("L", "DKD", dict(student=(4, 4, 2), teacher=(4, 4, 2)), "three classes"),
    ("L", "DIST", dict(student=(4, 4, 2), teacher=(4, 4, 2)), "inter-class"),
    ("L", "LSKD", dict(student=(4, 4, 2), teacher=(4, 4, 2)), "their order"),
    ("HReg", "DKD", {}, "which logits alone have: choose pathway L"),
  ],
)
def test_an_objection_says_why(pathway, loss, shapes, said):
  assert said in ask(pathway, loss, **shapes)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_what_a_relu_cannot_reach_is_refused_where_numbers_are_matched(loss):
  objective = trials.Objective("HReg", loss, PAIRS)
  said = sense.objection(objective, (4, 4, 3), (4, 4, 3), 2, beyond_reach=True)
  if "HReg" not in losses.LOSSES[loss].pathways:
    assert "choose pathway L" in said
  elif loss in ("MSE", "FitNets"):
    assert "set regressor.activation=linear" in said
  else:
    assert said is None


def test_a_new_loss_is_refused_where_it_is_restricted(monkeypatch):
  new = losses.Loss(losses.mse, pathways=("L", "HReg"))
  monkeypatch.setitem(losses.LOSSES, "New", new)
  assert ask("H", "New").endswith("define it there: choose pathway L or HReg")
  assert ask("L", "New") is None


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("pathway", pathways.PATHWAYS)
def test_no_objection_means_a_gradient(pathway, loss):
  """On the smallest maps that are let through, the student is taught."""
  if ask(pathway, loss):
    pytest.skip("refused")
  keys = jax.random.split(jax.random.key(0), 3)
  student, teacher = (jax.random.normal(k, (2, 2, 2, 3)) for k in keys[:2])
  mask = jnp.array([[[0, 1], [0, 0]], [[1, 1], [0, 1]]])
  kind = losses.LOSSES[loss]

  def value(student):
    s, t = pathways.PATHWAYS[pathway](
      student, teacher, lambda x: 2.0 * x, kind.relational
    )
    classes = pathways.memberships(mask, t, 3)
    return jnp.sum(kind.function(s, t, 1.0, classes))

  assert jnp.linalg.norm(jax.grad(value)(student)) > 1e-4
