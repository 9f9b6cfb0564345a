"""What every command does with its flags.

Commands import what they need when they run, so that --help and errors in
flags do not wait for JAX.
"""

import json
import os
import sys

from kdjax.errors import UserError


def say(text):
  """Prints a result; whoever reads it, such as `head`, may have read enough.

  Any other pipe or connection that breaks is still an error.
  """
  try:
    print(text, flush=True)
  except BrokenPipeError:  # Python flushes once more when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _arrange_memory(options):
  """Comes before all else, JAX too: the process may start anew."""
  from kdjax.engine import memory

  if options.own_process:
    memory.prefer()


def train(options):
  """Trains a study and prints its table."""
  _arrange_memory(options)
  from kdjax.engine import interruption

  with interruption.heed(options.command_line):
    from kdjax import configs
    from kdjax import run
    from kdjax import workdirs

    config = configs.load(options.config, options.overrides)
    found = run.train(
      config,
      options.workdir,
      coordinator=options.coordinator,
      count=options.processes,
      index=options.process,
    )
  if found:
    say(found.text)
    page = options.workdir / workdirs.REPORT / workdirs.PAGE
    print(
      f"kdjax: the page is {page}. To keep what may be shown: "
      f"kdjax report {options.workdir} --out results/NAME.",
      file=sys.stderr,
    )


def bench(options):
  """Times the fused grid."""
  _arrange_memory(options)
  from kdjax import configs
  from kdjax.bench import modes
  from kdjax.bench import run
  from kdjax.engine import memory

  memory.keep()  # Its arms are one program.
  say(
    run.write(
      configs.load(options.config, options.overrides),
      options.workdir,
      options.rounds,
      options.peer == "torch",
      options.modes or modes.NAMES,
      options.trials or modes.SIZES,
    )
  )


def report(options):
  """Reports on a workdir, or compares several."""
  from kdjax import run
  from kdjax.report import across

  folders = [*options.workdirs, *filter(None, [options.workdir])]
  if not folders:
    raise UserError("report: name a workdir, or several to compare.")
  if len(set(map(str, folders))) > 1:
    found = {str(folder): run.read(folder) for folder in folders}
    say(across.write(found, options.out))
    return
  say(run.report(folders[0], options.out, options.cases).text)


def test(options):
  """Tests a workdir on other data."""
  _arrange_memory(options)
  from kdjax import run
  from kdjax.report import across

  home = run.read(options.workdir)
  found = run.test(options.workdir, options.overrides, options.out)
  say(found.text)
  places = {str(x.workdir): x for x in (home, found)}
  say(across.write(places))
  print(f"kdjax: the report is in {found.workdir}.", file=sys.stderr)


def plan(options):
  """Compiles a study for chips that are not here."""
  from kdjax import configs
  from kdjax import files
  from kdjax.plan import forecast
  from kdjax.plan import plan
  from kdjax.plan import topology

  config = configs.load(options.config, options.overrides)
  planned = plan.make_plan(config, topology.make_slice(options.topology))
  say(forecast.table(planned))
  if options.json:
    text = json.dumps(forecast.numbers(planned), indent=2) + "\n"
    files.write_text(options.json, text)


def data(options):
  """Prints what a data set holds."""
  from kdjax import configs
  from kdjax.data import description
  from kdjax.engine import studies

  config = configs.load(options.config, options.overrides)
  say(description.make(*studies.load_data(config)))


def export(options):
  """Writes a trained network."""
  from kdjax.deploy import export

  say(
    export.write(
      options.workdir,
      options.out,
      kind=options.format,
      arm=options.arm,
      fold=options.fold,
      seed=options.seed,
      quantise=options.quantise,
    )
  )


def predict(options):
  """Writes masks of images."""
  from kdjax.deploy import predict

  text, failures = predict.run(
    options.model, options.images, options.out, options.batch
  )
  say(text)
  if failures:
    raise UserError(f"{failures} not predicted, see above; the others were.")
