"""The `kdjax` command: an exit status, and a line for what is wrong."""

import gc
import os
import shlex
import sys

from kdjax import flags
from kdjax import platforms
from kdjax.errors import Interrupted
from kdjax.errors import UserError

# When Python looks for garbage. Tracing makes objects by the hundred thousand,
# nearly all of which stay: looking after every 700 takes an eighth of a short
# run.
COLLECTED = 50_000, 10, 10


def run():
  """The command as a process."""
  platforms.settle()
  gc.set_threshold(*COLLECTED)
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
  parser = flags.make_parser()
  options, rest = parser.parse_known_args(arguments)
  options.command_line = shlex.join(["kdjax", *arguments])
  options.own_process = argv is None
  try:
    options.overrides = flags.overrides(parser, options, rest)
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


if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  run()
