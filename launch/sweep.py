"""Writes one SkyPilot job for every config, and for every shape of it.

  python launch/sweep.py --configs configs/paper.py configs/levels.py \\
    --bucket gs://BUCKET --out jobs
  python launch/sweep.py --configs configs/busi_cpu.py --bucket gs://BUCKET \\
    --shapes student.widths=8,16,32,32 student.widths=16,32,64,64 --out jobs

What differs in shapes cannot train in one grid: a job each. It prints how to
launch them and, when they have ended, how to merge their reports.
"""

import argparse
import pathlib
import re

import yaml


def main(argv=None):
  """Writes the jobs and prints the commands."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--configs", nargs="+", required=True)
  parser.add_argument(
    "--shapes", nargs="*", default=[""], metavar="FIELD=VALUE[;FIELD=VALUE]"
  )
  parser.add_argument("--bucket", required=True, help="such as gs://BUCKET")
  parser.add_argument("--task", default="launch/tpu.yaml", type=pathlib.Path)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  options = parser.parse_args(argv)
  workdirs = []
  options.out.mkdir(parents=True, exist_ok=True)
  for config in options.configs:
    for shape in options.shapes:
      name, workdir, job = make_job(options, config, shape)
      if workdir in workdirs:
        parser.error(f"{config} {shape}: another job is called {name} too")
      path = options.out / f"{name}.yaml"
      path.write_text(yaml.safe_dump(job, sort_keys=False))
      print(f"sky jobs launch --yes --detach-run -n {name} {path}")
      workdirs.append(workdir)
  print(f"kdjax report {' '.join(workdirs)} --out results/sweep")


def make_job(options, config, shape):
  """A job's name, workdir and SkyPilot task."""
  stem = pathlib.Path(config.partition(":")[0]).stem
  name = re.sub(r"[^a-z0-9]+", "-", f"{stem} {shape}".lower()).strip("-")
  workdir = f"{options.bucket.rstrip('/')}/runs/{name}"
  job = yaml.safe_load(options.task.read_text())
  job["name"] = name
  fields = [f"--config.{x}" for x in shape.split(";") if x]
  flags = " ".join([*job["envs"].get("FLAGS", "").split(), *fields])
  job["envs"].update(CONFIG=config, WORKDIR=workdir, FLAGS=flags)
  return name, workdir, job


if __name__ == "__main__":
  main()
