"""The flags of every command."""

import argparse
import pathlib
import re

from kdjax import __version__
from kdjax import commands

_EPILOG = """\
Any field of a config is set by --config.FIELD=VALUE, for example
--config.student_training.max_epochs=20 or --config.folds=0,1; --help-config
lists them.
FILE.py:tiny asks for a config's tiny size, which trains in seconds."""


def make_parser():
  """The parser of all commands; their `run` takes the parsed options."""
  parser = argparse.ArgumentParser(
    prog="kdjax",
    description="One program trains every student of a knowledge-distillation "
    "ablation and writes its table.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--version", action="version", version=__version__)
  subparsers = parser.add_subparsers(dest="command", required=True)

  def command(name, run, about, config=False, workdir=""):
    one = subparsers.add_parser(
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
    commands.train,
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
    commands.report,
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
    commands.test,
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
    commands.bench,
    "Time the fused grid on this machine beside its trials in turn.",
    config=True,
    workdir="where bench.csv and its plot go, a folder or gs://...",
  )
  bench.add_argument(
    "--peer",
    choices=("torch",),
    help="also train the same arms in PyTorch: in turn, and on a CPU in a "
    "process for every core",
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
    help="of alone, serial, fused, fused_cached, fused_alike, teacher, answer "
    "(default: all)",
  )
  bench.add_argument(
    "--trials",
    type=_counts,
    metavar="N,...",
    help="in the fused programs (default: 1,2,4,8,12,24,36)",
  )
  plan = command(
    "plan",
    commands.plan,
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
    commands.data,
    "Check a data set, print what was found, show the folds.",
    config=True,
  )
  export = command(
    "export",
    commands.export,
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
    help="also write it in 8 bits, by the ranges of an arm trained in 8, and "
    "measure what that costs",
  )
  predict = command(
    "predict",
    commands.predict,
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

    commands.say("\n".join(fields.described(schema.FIELDS)))
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


def overrides(parser, options, rest):
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
