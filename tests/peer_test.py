"""Two implementations of the study agree: ours and a serial one in PyTorch.

Skipped without PyTorch: pip install 'kdjax[peer]'.
"""

import contextlib

import flax.traverse_util
import jax
import jax.flatten_util
import numpy as np
import optax
import pytest

from configs import bench
from kdjax.bench import modes
from kdjax.bench import peer
from kdjax.bench import programs
from kdjax.distill import mapped
from kdjax.distill import supervised
from kdjax.distill import taps
from kdjax.distill import trials
from kdjax.engine import lanes
from kdjax.engine import stages
from kdjax.engine import streams
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.models import folding
from tests import conftest

STEPS = 3


def make_config():
  """The bench's arms, with numbers that leave nothing without effect."""
  config = bench.get_config("tiny")
  config.grid.update(
    alpha=(0.3,),
    temperature=(2.0,),
    learning_rate=(1e-3,),
    weight_decay=(0.5,),
  )
  return config


def draw(variables):
  """Numbers for variables: scales and shifts away from one and nought.

  Of the variables the shapes will do, which nothing has to be compiled for.
  """
  rng = np.random.default_rng(0)

  def one(path, x):
    name, noise = path[-1].key, rng.uniform(-0.4, 0.4, x.shape)
    if name in ("scale", "var"):
      noise = 1.0 + noise
    elif name == "kernel":
      noise = rng.normal(0.0, np.prod(x.shape[:-1]) ** -0.5, x.shape)
    return noise.astype(np.float32)

  return jax.tree_util.tree_map_with_path(one, variables)


class Start:
  """A study and what its arms start from.

  Attributes:
    programs: of all arms, on one device.
    block: the only one.
    teacher: variables, not folded.
    states: `lanes.States` of one trial.
  """

  def __init__(self, config, workdir):
    study = studies.make_study(
      config.lock(), workdir, conftest.make_dataset(cases=24, side=32)
    )
    stage = study.student_stage
    self.programs = stages.Programs(study, stage, 1, jax.devices()[:1])
    (self.block,) = study.blocks
    model = study.make_model("teacher")
    self.teacher = draw(
      jax.eval_shape(model.init, jax.random.key(1), study.blank("teacher"))
    )
    states = jax.device_get(self.programs.init(self.block.key, {}))
    random = lambda x: x.replace(params=draw(x.params))
    self.states = lanes.States(
      random(states.trials),
      {name: random(x) for name, x in states.regressors.items()},
    )

  def make_peer(self):
    return peer.Peer(
      self.programs, self.block, self.teacher, self.states, batches=STEPS
    )

  def train(self):
    """By arm, what the fused grid computes: `States` after every step."""
    programs, layout = self.programs, self.programs.layout
    arms = programs.stage.arms
    repeat = lambda rows, tree: jax.tree.map(
      lambda x: np.repeat(x[None, None], rows, 1), tree
    )
    states = layout.spread_states(
      lanes.States(
        repeat(len(arms), self.states.trials),
        {
          name: repeat(places.rows, self.states.regressors[name])
          for name, places in layout.regressors.items()
        },
      )
    )
    model = programs.study.make_model("teacher")
    wave = {
      "key": jax.random.key_data(self.block.key),
      "teacher": folding.fold(model, self.teacher)[1],
    }
    wave = layout.spread_blocks(
      jax.tree.map(lambda x: np.asarray(x)[None], wave)
    )
    wave["key"] = jax.random.wrap_key_data(wave["key"])
    batches = programs.batches([self.block], {self.block: 0})
    seen = []
    for t in range(STEPS):
      one = jax.tree.map(lambda x, t=t: x[:, t : t + 1], batches)
      states = programs.train_epoch(
        states, programs.lanes([self.block]), wave, programs.data, one
      )
      seen.append(layout.gather_states(states))
    having = [arm.name for arm in arms if mapped.learnt(arm.objective)]
    pick = lambda tree, i: jax.tree.map(lambda x: x[0, i], tree)
    return {
      arm.name: [
        lanes.States(
          pick(x.trials, g),
          pick(x.regressors, having.index(arm.name))
          if arm.name in having
          else {},
        )
        for x in seen
      ]
      for g, arm in enumerate(arms)
    }

  def teach(self, view):
    """Supervised loss and gradient of a teacher on the first batch."""
    study = self.programs.study
    model, train = study.make_model("teacher"), study.folds[0].train
    size = study.config.student_training.batch_size
    drawn = streams.draw(train, self.block, 0, 1, size)
    batch, inputs, _ = self.programs.render_batch(
      {"key": self.block.key},
      self.programs.data,
      drawn["cases"][0],
      drawn["epochs"][0],
    )

    def loss(params):
      logits, _, _ = taps.apply(
        model,
        {**self.teacher, "params": params},
        inputs[view],
        taps=(),
        train=True,
      )
      return supervised.cross_entropy(logits, batch["mask"]).mean()

    return jax.jit(jax.value_and_grad(loss))(self.teacher["params"])


def gradients(state):
  """What Adam's first step read: its first moment is then a tenth of it."""
  moment = optax.tree.get(state.optimizer, "mu") / (1.0 - 0.9)
  return jax.flatten_util.ravel_pytree(state.params)[1](moment)


def of_arm(arm, states, what):
  """`what` of a state, of all that `arm` trains, as the peer orders it."""
  regressors = states.regressors if arm.startswith("HReg") else {}
  return {
    "student": what(states.trials),
    "regressors": {name: what(x) for name, x in regressors.items()},
  }


def flat(tree):
  """Arrays by path."""
  found = flax.traverse_util.flatten_dict(tree, sep="/")
  return {name: np.asarray(x) for name, x in found.items()}


def assert_equal(theirs, arm, first, states):
  """Holds an arm of the peer against our states after every step."""
  losses, found = theirs.gradients(arm)
  for name, x in losses.items():
    # The losses are of the order of one, and a distillation's may be less.
    ours = states[0].trials.sums[name]
    assert x == pytest.approx(ours, rel=1e-4, abs=1e-5), name
  expected = flat(of_arm(arm, states[0], gradients))
  found = flat(found)
  assert set(found) == set(expected)
  error = {
    name: np.linalg.norm(x - expected[name]) / np.linalg.norm(expected[name])
    for name, x in found.items()
  }
  for _ in range(STEPS):
    assert theirs.step(arm) > 0
  after = flat(theirs.parameters(arm))
  params = lambda x: flat(of_arm(arm, x, lambda state: state.params))
  before, ours = params(first), params(states[-1])
  length = lambda x: np.linalg.norm(np.concatenate([y.ravel() for y in x]))
  apart = length([x - ours[name] for name, x in after.items()])
  drift = apart / length([x - before[name] for name, x in ours.items()])
  worst = max(error, key=error.get)
  print(f"{arm}: {worst} {error[worst]:.1e}, after {STEPS} steps {drift:.1e}")
  assert error[worst] < 1e-4, worst
  # Adam's first steps are little but signs: of what has next to no gradient
  # rounding decides which way it goes, and so does a ReLU at its kink: up to
  # 5.6e-3 on a processor with AVX-512, below 1e-3 on one without. Adam without
  # its bias correction would begin with a step 0.1 / sqrt(0.001) times as long.
  assert drift < 1e-2


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  return Start(make_config(), tmp_path_factory.mktemp("peer"))


@pytest.fixture(scope="module")
def ours(start):
  return start.train()


@pytest.fixture(scope="module")
def theirs(start):
  """The process that `kdjax bench --peer torch` starts."""
  pytest.importorskip("torch")
  with start.make_peer() as process:
    yield process


@pytest.mark.slow
@pytest.mark.parametrize(
  "arm", [arm.name for arm in trials.make_arms(make_config().grid)]
)
def test_loss_gradients_and_three_steps_of_every_arm_equal_the_peers(
  start, theirs, ours, arm
):
  assert_equal(theirs, arm, start.states, ours[arm])


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, encoder, pair",
  [
    ("UNetPlusPlus", "resnet50", ("encoder4", "encoder5")),
    ("EncoderUNet", "efficientnet-lite0", ("encoder4", "decoder3")),
  ],
)
def test_teachers_with_an_encoder_teach_and_learn_the_same(
  name, encoder, pair, tmp_path
):
  pytest.importorskip("torch")
  config = make_config()
  config.teacher = dict(
    name=name, encoder=encoder, num_classes=2, in_channels=3
  )
  config.grid.update(
    pathway=("L", "HReg"), loss=("MSE",), view=("weak",), pair=(pair,)
  )
  start = Start(config, tmp_path)
  ours = start.train()
  with start.make_peer() as theirs:
    for arm, states in ours.items():
      assert_equal(theirs, arm, start.states, states)
    assert theirs.answer() > 0
    losses, found = theirs.gradients("Teacher")
    loss, expected = start.teach("weak")
    assert (
      losses["sup"] == losses["train"] == pytest.approx(float(loss), rel=1e-4)
    )
    expected, found = flat(expected), flat(found["student"])
    assert set(found) == set(expected)
    apart = {
      name: np.linalg.norm(x - expected[name]) / np.linalg.norm(expected[name])
      for name, x in found.items()
    }
    assert apart["head/kernel"] < 1e-3
    # BatchNorms of the deepest level see four values a channel, whose variance
    # Flax takes from their squares: float32 leaves up to a tenth of it.
    assert max(apart[x] for x in apart if x.endswith("kernel")) < 0.2
    assert theirs.step("Teacher") > 0


@pytest.mark.slow
def test_a_process_for_every_core_trains_all_arms_at_once(start, monkeypatch):
  pytest.importorskip("torch")
  monkeypatch.setattr(modes.cores, "cores", lambda: 2)
  study = start.programs.study
  peers = modes.make_peers(study, programs.untrained_teacher(study))
  with contextlib.ExitStack() as stack:
    entered = [stack.enter_context(x) for x in peers]
    in_turn, at_once = modes.torch_modes(study, entered, ("serial",))
    assert [x.name for x in (in_turn, at_once)] == [
      "torch_serial",
      "torch_by_core",
    ]
    assert in_turn.trials == at_once.trials == len(in_turn.runs) == 12
    (step,) = at_once.runs
    weights = lambda: [
      jax.flatten_util.ravel_pytree(x.parameters("L_MSE"))[0] for x in entered
    ]
    before = weights()
    assert step() > 0
    moved = [(x != y).any() for x, y in zip(before, weights(), strict=True)]
    # Of two processes one has this arm, and the one in turn waits.
    assert sum(moved) == 1 and not moved[0]
    assert at_once.peak() > in_turn.peak() / 2


@pytest.mark.slow
def test_a_peer_that_dies_is_one_line(start):
  pytest.importorskip("torch")
  with start.make_peer() as process:
    assert process.peak_bytes() > 1e6
    with pytest.raises(UserError, match=r"ended \(KeyError: 'L_MEE'\)"):
      process.step("L_MEE")
    assert process.process.wait() == 1


@pytest.mark.parametrize(
  "field, value",
  [
    ("grid.loss", ("MSE", "SP")),
    ("grid.view", ("cached",)),
    ("teacher.encoder", "resnet18"),
  ],
)
def test_the_peer_refuses_what_it_has_not(field, value, tmp_path, monkeypatch):
  monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: name)
  config = make_config()
  if field == "teacher.encoder":
    config.teacher = dict(
      name="EncoderUNet", encoder=value, num_classes=2, in_channels=3
    )
    config.grid.pathway = ("L",)
  else:
    config.grid[field.removeprefix("grid.")] = value
  offender = value if isinstance(value, str) else value[-1]
  with pytest.raises(UserError, match=f"has no {field}={offender}: choose"):
    Start(config, tmp_path).make_peer()


def test_a_missing_pytorch_is_one_line_that_says_what_to_install(
  start, monkeypatch
):
  monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'kdjax\[peer\]'"):
    start.make_peer()
