"""The `kdjax` command: flags and nothing else."""

import argparse
import json
import os
import pathlib
import re
import shlex
import sys

from kdjax import __version__
from kdjax.errors import Interrupted
from kdjax.errors import UserError

_EPILOG = """\
Any field of a config is set by --config.FIELD=VALUE, for example
--config.student_training.max_epochs=20 or --config.folds=0,1; --help-config
lists them.
FILE.py:tiny asks for a config's tiny size, which trains in seconds."""


def run():
  """The command as a process."""
  status = main()
  if status:
    # Threads of Orbax's that outlive an error print tracebacks while Python is
    # shut down; all that was to be written is.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(argv=None):
  """Runs the command; returns its exit status."""
  arguments = sys.argv[1:] if argv is None else list(argv)
  parser = _parser()
  options, rest = parser.parse_known_args(arguments)
  options.command_line = shlex.join(["kdjax", *arguments])
  try:
    options.overrides = _overrides(parser, options, rest)
    options.run(options)
  except UserError as error:
    return _fail(options, error)
  except OSError as error:
    return _fail(options, error, _of_system(error))
  except Interrupted as stopped:
    print(f"kdjax: {stopped}", file=sys.stderr)
    return 128 + stopped.number
  except KeyboardInterrupt:
    print("kdjax: interrupted.", file=sys.stderr)
    return 130
  except Exception as error:  # A mistake of ours, still no page of traceback.
    return _fail(
      options,
      error,
      f"{type(error).__name__}: {error} (--verbose shows where)",
    )
  return 0


def _print(text):
  """Prints a result; whoever reads it, such as `head`, may have read enough.

  Any other pipe or connection that breaks is still an error.
  """
  try:
    print(text, flush=True)
  except BrokenPipeError:  # Python flushes once more when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(options, error, line=""):
  if options.verbose:
    raise error
  print(f"kdjax: {' '.join((line or str(error)).split())}", file=sys.stderr)
  return 1


def _of_system(error):
  """What a full disk, a read-only folder and the like say, and the way out."""
  where = f"{error.filename}: " if error.filename else ""
  return (
    f"{where}{error.strerror or error}. Files on disk are whole: put this "
    "right and run the same command again."
  )


def _parser():
  parser = argparse.ArgumentParser(
    prog="kdjax",
    description="One program trains every student of a knowledge-distillation "
    "ablation and writes its table.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--version", action="version", version=__version__)
  commands = parser.add_subparsers(dest="command", required=True)

  def command(name, run, about, config=False, workdir=""):
    one = commands.add_parser(
      name,
      help=about,
      description=about,
      epilog=_EPILOG if config else None,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.set_defaults(run=run)
    if config:
      one.add_argument(
        "--config", required=True, metavar="FILE.py[:SIZE]", help="the question"
      )
      one.add_argument(
        "--help-config",
        action=_HelpConfig,
        nargs=0,
        help="say what every field of a config is, and exit",
      )
    if workdir:
      one.add_argument("--workdir", required=True, type=_place, help=workdir)
    one.add_argument(
      "--verbose", action="store_true", help="show the traceback of an error"
    )
    return one

  train = command(
    "train",
    _train,
    "Train the teachers and every student, and print the table.",
    config=True,
    workdir="where everything is kept, a folder or gs://...; the same one "
    "resumes",
  )
  train.add_argument(
    "--processes",
    type=int,
    metavar="N",
    help="share folds and seeds between N processes, on one machine or many, "
    "with one --workdir; the first prints the table",
  )
  train.add_argument(
    "--process", type=int, metavar="I", help="which of them this is, 0 to N-1"
  )
  train.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="where process 0 waits for all to start; auto: as Cloud TPU, GKE, "
    "Slurm or Open MPI says, and so are N and I",
  )
  report = command(
    "report",
    _report,
    "Make the tables, figures and page of a workdir, or compare several.",
  )
  report.add_argument(
    "workdirs", nargs="*", type=_place, help="one, or several to compare"
  )
  report.add_argument("--workdir", type=_place, help="the same as naming it")
  report.add_argument(
    "--out",
    type=_place,
    help="also copy what may be shown to this folder, with a README.md on how "
    "it was made: no images of patients",
  )
  report.add_argument(
    "--cases",
    type=lambda text: tuple(text.split(",")),
    default=(),
    metavar="CASE,...",
    help="test cases to draw, instead of the best, median and worst",
  )
  test = command(
    "test",
    _test,
    "Test a workdir's networks on other data, named by --config.data.FIELD.",
    workdir="of kdjax train, a folder or gs://...",
  )
  test.add_argument(
    "--out",
    type=_place,
    help="where per_case.csv and the report go (default: tests/NAME in the "
    "workdir)",
  )
  test.set_defaults(config=None)  # Fields of the workdir's are set.
  bench = command(
    "bench",
    _bench,
    "Time the fused grid on this machine beside its trials in turn.",
    config=True,
    workdir="where bench.csv and its plot go, a folder or gs://...",
  )
  bench.add_argument(
    "--peer",
    choices=("torch",),
    help="also train the same arms in turn in PyTorch",
  )
  bench.add_argument(
    "--rounds",
    type=int,
    default=5,
    metavar="N",
    help="steps of each, interleaved, that are timed (default: 5)",
  )
  bench.add_argument(
    "--modes",
    type=lambda text: tuple(text.split(",")),
    metavar="MODE,...",
    help="of alone, serial, fused, fused_cached (default: all)",
  )
  bench.add_argument(
    "--trials",
    type=_counts,
    metavar="N,...",
    help="in the fused programs (default: 1,2,4,8,12,24,36)",
  )
  plan = command(
    "plan",
    _plan,
    "Compile a study for TPUs or GPUs that are not here; print what it takes.",
    config=True,
  )
  plan.add_argument(
    "--topology",
    required=True,
    metavar="CHIP:SHAPE",
    help="TPUs such as v5e:2x4 or v5p:2x2x1 (v4, v5e, v5p, v6e), or GPUs of "
    "a machine, h100:1 to h100:8 (h100, a100, l4)",
  )
  plan.add_argument(
    "--json", type=pathlib.Path, metavar="FILE", help="also write the figures"
  )
  command(
    "data",
    _data,
    "Check a data set, print what was found, show the folds.",
    config=True,
  )
  export = command(
    "export",
    _export,
    "Write a trained network as ONNX or StableHLO, with a model card.",
    workdir="of kdjax train, a folder or gs://...",
  )
  export.add_argument(
    "--out", required=True, type=pathlib.Path, help="the file to write"
  )
  export.add_argument(
    "--arm",
    default="best",
    metavar="NAME",
    help="a row of the table; by default the best student on validation",
  )
  export.add_argument("--fold", type=int, help="by default the best")
  export.add_argument("--seed", type=int, help="by default the best")
  export.add_argument("--format", choices=("onnx", "stablehlo"), default="onnx")
  export.add_argument(
    "--quantise",
    action="store_true",
    help="also write it in 8 bits, and measure what that costs",
  )
  predict = command(
    "predict",
    _predict,
    "Write masks and overlays of images; needs no JAX.",
  )
  predict.add_argument(
    "--model", required=True, type=pathlib.Path, help="from kdjax export"
  )
  predict.add_argument(
    "--out", required=True, type=pathlib.Path, help="the folder to write to"
  )
  predict.add_argument(
    "--batch", type=int, default=1, metavar="N", help="images at once"
  )
  predict.add_argument(
    "images",
    nargs="+",
    type=pathlib.Path,
    metavar="IMAGE",
    help="PNG, JPEG, BMP, TIFF, or a folder of them",
  )
  return parser


class _HelpConfig(argparse.Action):
  """Prints every field of a config, as `--help` prints every flag."""

  def __call__(self, parser, namespace, values, option_string=None):
    from kdjax import fields
    from kdjax import schema

    _print("\n".join(fields.described(schema.FIELDS)))
    parser.exit()


def _counts(text):
  try:
    return tuple(int(x) for x in text.split(","))
  except ValueError as error:
    raise argparse.ArgumentTypeError(
      f"{text!r}: it takes numbers with commas, such as 12,36"
    ) from error


def _place(text):
  """A folder, or a bucket's gs://...; `predict` does without the package."""
  from etils import epath

  return epath.Path(text)


def _overrides(parser, options, rest):
  """Turns `--config.key=value` and `--config.key value` into pairs."""
  pairs = []
  rest = list(rest)
  while rest:
    flag = rest.pop(0)
    match = re.fullmatch(r"--config\.([^=]+)(?:=(.*))?", flag, re.DOTALL)
    if not match or not hasattr(options, "config"):
      parser.error(f"unrecognised argument: {flag}")
    if match[2] is None and not rest:
      parser.error(f"{flag} needs a value")
    pairs.append((match[1], match[2] if match[2] is not None else rest.pop(0)))
  return pairs


# Commands import what they need when they run, so that --help and errors in
# flags do not wait for JAX.


def _train(options):
  from kdjax.engine import interruption
  from kdjax.engine import memory

  memory.keep()
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
    _print(found.text)
    page = options.workdir / workdirs.REPORT / "index.html"
    print(
      f"kdjax: the page is {page}. To keep what may be shown: "
      f"kdjax report {options.workdir} --out results/NAME.",
      file=sys.stderr,
    )


def _bench(options):
  import jax

  from kdjax import configs
  from kdjax import files
  from kdjax.bench import modes
  from kdjax.bench import record
  from kdjax.bench import run
  from kdjax.engine import memory
  from kdjax.engine import studies
  from kdjax.report import environment

  if options.rounds < 1:
    raise UserError(f"--rounds={options.rounds}: at least 1.")
  names = options.modes or modes.NAMES
  if unknown := set(names) - set(modes.NAMES):
    raise UserError(
      f"--modes={','.join(sorted(unknown))}: choose from "
      f"{', '.join(modes.NAMES)}."
    )
  sizes = options.trials or modes.SIZES
  if min(sizes) < 1:
    raise UserError(f"--trials={min(sizes)}: at least 1.")
  memory.keep()
  config = configs.load(options.config, options.overrides)
  study = studies.make_study(config, options.workdir)
  with files.lock(options.workdir):
    configs.claim(config, options.workdir)
    environment.write(options.workdir, jax.devices())
    measured = run.run(
      study, options.rounds, options.peer == "torch", names, sizes
    )
    record.write(measured, options.workdir)
  _print(record.table(measured))


def _report(options):
  from kdjax import run
  from kdjax.report import across

  folders = [*options.workdirs, *filter(None, [options.workdir])]
  if not folders:
    raise UserError("report: name a workdir, or several to compare.")
  if len(set(map(str, folders))) > 1:
    found = {str(folder): run.read(folder) for folder in folders}
    _print(across.write(found, options.out))
    return
  _print(run.report(folders[0], options.out, options.cases).text)


def _test(options):
  from kdjax import run
  from kdjax.engine import memory
  from kdjax.report import across

  memory.keep()
  home = run.read(options.workdir)
  found = run.test(options.workdir, options.overrides, options.out)
  _print(found.text)
  places = {str(x.workdir): x for x in (home, found)}
  _print(across.write(places))
  print(f"kdjax: the report is in {found.workdir}.", file=sys.stderr)


def _plan(options):
  from kdjax import configs
  from kdjax import files
  from kdjax.plan import forecast
  from kdjax.plan import plan
  from kdjax.plan import topology

  config = configs.load(options.config, options.overrides)
  planned = plan.make_plan(config, topology.make_slice(options.topology))
  _print(forecast.table(planned))
  if options.json:
    text = json.dumps(forecast.numbers(planned), indent=2) + "\n"
    files.write_text(options.json, text)


def _data(options):
  from kdjax import configs
  from kdjax.data import pipeline
  from kdjax.engine import studies

  config = configs.load(options.config, options.overrides)
  _print(pipeline.describe(*studies.load_data(config)))


def _export(options):
  from kdjax.deploy import export

  _print(
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


def _predict(options):
  from kdjax.deploy import predict

  text, failures = predict.run(
    options.model, options.images, options.out, options.batch
  )
  _print(text)
  if failures:
    raise UserError(f"{failures} not predicted, see above; the others were.")


if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  run()
