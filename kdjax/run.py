"""What a notebook or a launcher calls: train a study, report on a workdir."""

from etils import epath
from etils import epy
import jax

from kdjax import configs
from kdjax import files
from kdjax import recorded
from kdjax import workdirs
from kdjax.distill import trials
from kdjax.engine import compilations
from kdjax.engine import cores
from kdjax.engine import course
from kdjax.engine import levels
from kdjax.engine import networks
from kdjax.engine import processes
from kdjax.engine import studies
from kdjax.errors import UserError

# What a run needs at its end: seconds of importing that its beginning, or one
# that is refused, need not wait for.
with epy.lazy_imports():
  from kdjax.deploy import latency
  from kdjax.evaluate import cases as test_cases
  from kdjax.evaluate import efficiency
  from kdjax.evaluate import elsewhere
  from kdjax.report import build
  from kdjax.report import environment
  from kdjax.report import gather


def train(config, workdir, *, coordinator=None, count=None, index=None):
  """Trains teachers and students, tests them and writes the report.

  The same call goes on where the last one stopped, whatever stopped it.

  Args:
    config: `ConfigDict`, such as `configs.load("configs/paper.py:tiny")`.
    workdir: where everything is kept, a folder or gs://...
    coordinator: where many processes meet, host:port or "auto"; or None.
    count: of processes that share folds and seeds; None for one alone.
    index: of this one.

  Returns:
    `results.Results`, with the frames `table`, `comparisons`, `contrasts`,
    `per_case` and `history`; None from a process that leaves it to the first.

  Raises:
    UserError: the config or the data cannot be used, the workdir belongs to
      another config, or another process trains in it.
  """
  workdir = epath.Path(workdir)
  compilations.keep(config)
  cores.divide(config, alone=coordinator is None and count is None)
  share = processes.join(coordinator, count, index)
  study = studies.make_study(config, workdir)
  mine = processes.take(study, share)
  with files.lock(workdir, processes.parts(mine)):
    if not share.first:
      processes.await_first(share, workdir / workdirs.DATA)
    recorded.claim(config, workdir, write=share.first)
    recorded.claim_data(study)
    with processes.alive(share, workdir):
      if share.first:
        environment.write(workdir, jax.devices())
        levels.write(study)
      trained = course.train(mine)
    if not share.first:
      return None
    if share.count > 1:
      processes.await_others(study, share)
      trained = course.train(study)  # Reads what all have trained.
    test_cases.write(study, trained)
    efficiency.write(study, trained, latency.measure)
    return report(workdir)


def report(workdir, out=None, cases=()):
  """Writes the tables, figures and page of a trained workdir.

  Args:
    workdir: a folder or gs://...; its report goes to report/ there.
    out: where a copy goes that may be shown, without images of patients.
    cases: test cases to draw, instead of the best, median and worst.

  Returns:
    `results.Results`, as `train`.

  Raises:
    UserError: nothing was trained there, a file is damaged, or there is no such
      case; nothing is written then.
  """
  found = read(workdir)
  build.write(found, cases)
  if out:
    build.publish(found, out)
  return found


def test(workdir, overrides=(), out=None):
  """Tests every trained network of a workdir on a data set that none saw.

  Args:
    workdir: a trained one; only read, unless `out` is left to it.
    overrides: what of the config's `data` is other there, as pairs such as
      `("data.dir", "elsewhere")`.
    out: a folder or gs://... for per_case.csv and a report of their own; by
      default tests/NAME in the workdir, by the data's name.

  Returns:
    `results.Results` of `out`.

  Raises:
    UserError: a network is not trained to its end, or the data cannot be read
      or hold a case that the workdir has.
  """
  workdir = epath.Path(workdir)
  config = configs.override(recorded.read(workdir), overrides, "data")
  with config.unlocked():
    config.published = False  # The paper tested nothing of the kind.
    config.question = (
      f"How do the networks of {workdir.name} do on images that they never saw?"
    )
  compilations.keep(config)
  study = elsewhere.make_study(workdir, config, out)
  with files.lock(study.workdir):
    recorded.claim(config, study.workdir)
    environment.write(study.workdir, jax.devices())
    elsewhere.write(workdir, study)
    return report(study.workdir)


def read(workdir):
  """The `results.Results` of a trained workdir; writes nothing.

  Raises:
    UserError: nothing was trained there, or a file is damaged.
  """
  workdir = epath.Path(workdir)
  config = recorded.read(workdir)
  # What was measured has the counts, and needs no network to be made.
  stored = workdirs.has(workdir, workdirs.EFFICIENCY)
  for name in () if stored else ("teacher", "student", "engine"):
    if name not in config:
      raise UserError(
        f"{workdir / workdirs.CONFIG} is damaged (it lacks {name})."
      )
  counts = {} if stored else networks.parameters(config)
  return gather.results(workdir, config, trials.make_arms(config.grid), counts)
