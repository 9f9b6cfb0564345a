"""Networks as a config describes them, and their shapes without computing."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp

from kdjax import fields
from kdjax import models
from kdjax.distill import taps
from kdjax.distill import trials
from kdjax.engine import convolution
from kdjax.errors import UserError
from kdjax.models import own

# Fields of a model that no config gives.
NOT_CONFIGURED = (
  "parent",
  "name",
  "convolution",
  "norm_axis",
  "dtype",
  "folded",
)


def make_model(spec, engine, role, batch_axis=None):
  """The linen module that `spec` (name and attributes) describes.

  Raises:
    UserError: an unknown model or attribute, or one that makes no network.
  """
  attributes = spec.to_dict()
  name = attributes.pop("name", None)
  network = _find(name, role)
  if role == "student" and network is models.Answers:
    raise UserError("student.name=Answers: what answers cannot be trained.")
  known = {
    field.name: _attribute(field.type)
    for field in dataclasses.fields(network)
    if field.name not in NOT_CONFIGURED
  }
  for attribute, value in attributes.items():
    if attribute not in known:
      raise UserError(
        f"{role}.{attribute} is not an attribute of {name}: it has "
        f"{', '.join(known)}."
      )
    fields.check(value, known[attribute], f"{role}.{attribute}")
  settings = {
    "convolution": convolution.choose(engine.lowering),
    "norm_axis": batch_axis,
    "dtype": jnp.dtype(engine.dtype),
  }
  if own.lacks(network, "dtype") and engine.dtype != "float32":
    raise UserError(
      f"{role}.name={name} has no attribute dtype, which "
      f"engine.dtype={engine.dtype} needs: set float32."
    )
  try:
    return network(**attributes, **settings)
  except TypeError as error:
    raise UserError(f"{role} makes no network: {error}.") from error


def _find(name, role):
  """The class of a network, ours or another package's."""
  if name in models.MODELS:
    return models.MODELS[name]
  if isinstance(name, str) and ":" in name:
    try:
      return own.find(name)
    except UserError as error:
      raise UserError(f"{role}.name={error}") from error
  raise UserError(
    f"{role}.name={name!r} is not a model: choose from "
    f"{', '.join(models.MODELS)}, or name your own, package.module:Class."
  )


def _attribute(kind):
  """The `Field` of a model's attribute of type `kind`; numbers are counts."""
  if many := typing.get_origin(kind) is tuple:
    kind = typing.get_args(kind)[0]
  if kind not in (int, float, str, bool):  # Of a network that is not ours.
    return fields.Field("")
  limits = (1, 2**16) if kind is int else ()
  return fields.Field("", kind, *limits)._replace(many=many)


def parameters(config):
  """Number of trained parameters by row of the table, regressors left out."""
  count = {}
  for role in ("teacher", "student"):
    model = make_model(config[role], config.engine, role)
    variables = shapes(model, blank(model, config))
    count[role] = sum(x.size for x in jax.tree.leaves(variables["params"]))
  students = {
    arm.name: count["student"] for arm in trials.make_arms(config.grid)
  }
  return {"Teacher": count["teacher"], **students}


def is_answers(model):
  """Whether it takes cases where others take images, and cannot be trained."""
  return isinstance(model, models.Answers)


def refuse_answers(config, what):
  """Refuses a teacher that only answers, for what has to run it.

  Raises:
    UserError: it is one.
  """
  if models.MODELS.get(config.teacher.get("name")) is models.Answers:
    raise UserError(
      f"{what} runs the teacher, of which teacher.name=Answers has only what "
      "it said: name a network."
    )


def blank(model, config):
  """Zeros in the shape of one image, `[1, S, S, C]`, or of one case, `[1]`."""
  if is_answers(model):
    return jnp.zeros((1,), jnp.int32)
  side = config.data.image_size
  return jnp.zeros((1, side, side, model.in_channels))


def shapes(model, images):
  """The shapes of a network's variables."""
  return _shape(_init, (model,), images)


def features(model, images, wanted):
  """The shapes of what a network has at the taps `wanted`, by tap."""
  return _shape(_tapped, (model, wanted), shapes(model, images), images)


def _init(model, images):
  return model.init(jax.random.key(0), images)


def _tapped(model, wanted, variables, images):
  return taps.apply(model, variables, images, taps=wanted)[1]


def _shape(function, static, *arrays):
  """The shape of `function(*static, *arrays)`, traced once for each `static`.

  A trace takes seconds where the network is large. A network of one's own may
  have attributes that cannot be hashed, such as a list: it is traced anew each
  time.
  """
  try:
    hash(static)
  except TypeError:
    return jax.eval_shape(functools.partial(function, *static), *arrays)
  return _kept.eval_shape(function, static, *arrays)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _kept(function, static, *arrays):
  return function(*static, *arrays)
