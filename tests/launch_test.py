"""Launch files are sound, and what they run really runs, killed and resumed."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib

import numpy as np
from PIL import Image
import pytest
import yaml

from tests import started

# Minutes on any machine: who hangs is found by its silence.
pytestmark = pytest.mark.timeout(3600)

LAUNCH = pathlib.Path("launch")
TASKS = sorted(x.name for x in LAUNCH.glob("*.yaml") if x.name != "jobset.yaml")
SCRIPTS = sorted(x.name for x in LAUNCH.glob("*.sh"))


def load(name):
  return yaml.safe_load((LAUNCH / name).read_text())


def container():
  job = load("jobset.yaml")["spec"]["replicatedJobs"][0]["template"]["spec"]
  (one,) = job["template"]["spec"]["containers"]
  return one


def sources(tmp_path):
  """Every piece of shell: scripts, and what YAML files run."""
  pieces = {name: (LAUNCH / name).read_text() for name in SCRIPTS}
  for name in TASKS:
    for part in ("setup", "run"):
      pieces[f"{name}-{part}.sh"] = f"#!/bin/bash\n{load(name)[part]}"
  pieces["jobset.yaml.sh"] = f"#!/bin/sh\n{container()['command'][2]}"
  for name, text in pieces.items():
    (tmp_path / name).write_text(text)
    yield tmp_path / name


def test_every_shell_script_parses(tmp_path):
  for path in sources(tmp_path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.skipif(
  not shutil.which("shellcheck"), reason="shellcheck is not installed"
)
def test_shellcheck_has_nothing_to_say(tmp_path):
  paths = list(sources(tmp_path))
  found = subprocess.run(["shellcheck", *paths], stdout=subprocess.PIPE)
  assert found.returncode == 0, found.stdout.decode()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_sets_what_the_job_reads_and_names_what_there_is(name):
  task = load(name)
  told = (LAUNCH / "job.sh").read_text()
  for variable in task["envs"]:
    assert re.search(rf"^#   {variable} ", told, re.MULTILINE), variable
  assert {"CONFIG", "WORKDIR"} <= set(task["envs"])
  assert pathlib.Path(task["envs"]["CONFIG"]).exists()
  (extras,) = re.findall(r"launch/install.sh (\S+)", task["setup"])
  project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
  assert set(extras.split(",")) <= set(project["optional-dependencies"])
  assert task["resources"]["use_spot"] and task["resources"]["job_recovery"]


# A dry run asks which machines there are, which SkyPilot fetches from the web,
# so these few stand in: names are GCP's, prices and the zone are made up.
CATALOG = {
  "gcp/vms.csv": """\
InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Price,SpotPrice,Region,AvailabilityZone
n1-highmem-4,4,26,,,,1,1,here,here-a
n1-highmem-8,8,52,,,,1,1,here,here-a
g2-standard-4,4,16,,,,1,1,here,here-a
,,,tpu-v5litepod-4,1,,1,1,here,here-a
,,,tpu-v5litepod-16,1,,1,1,here,here-a
,,,L4,1,,1,1,here,here-a
""",
  "gcp/images.csv": "Tag,Region,OS,OSVersion,ImageId,CreationDate\n",
  "gcp/accelerator_quota_mapping.csv": "Accelerator,OnDemandQuota,SpotQuota\n",
  "common/accelerators.csv": """\
AcceleratorName,Clouds
tpu-v5litepod-4,['GCP']
tpu-v5litepod-16,['GCP']
L4,['GCP']
""",
}
DRY_RUN = """
import sys
import sky
from sky import check
from sky import clouds
from sky import optimizer

# As if there were an account.
check.get_cached_enabled_clouds_or_refresh = lambda *_, **__: [clouds.GCP()]
task = sky.Task.from_yaml(sys.argv[1])
with sky.Dag() as dag:
  dag.add(task)
optimizer.Optimizer.optimize(dag, quiet=True)
print("chosen:", task.best_resources)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_skypilot_parses_a_task_and_finds_it_a_machine(name, tmp_path):
  python = os.environ.get("KDJAX_SKYPILOT")
  if not python:
    pytest.skip("KDJAX_SKYPILOT names no Python with SkyPilot")
  for file, text in CATALOG.items():
    path = tmp_path / ".sky/catalogs/v8" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  said = subprocess.run(
    [python, "-c", DRY_RUN, LAUNCH / name],
    env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": ""},
    capture_output=True,
    text=True,
  )
  assert said.returncode == 0, said.stderr
  (chosen,) = [x for x in said.stdout.splitlines() if x.startswith("chosen:")]
  wanted = load(name)["resources"]["accelerators"].split(":")[0]
  assert "[Spot]" in chosen and f"'{wanted}': 1" in chosen


def test_the_jobset_agrees_with_itself():
  jobset = load("jobset.yaml")
  assert jobset["apiVersion"].startswith("jobset.x-k8s.io/")
  assert jobset["kind"] == "JobSet"
  (replicated,) = jobset["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  env = {x["name"]: x["value"] for x in container()["env"]}
  hosts = int(env["PROCESSES"])
  assert job["completionMode"] == "Indexed"
  assert job["parallelism"] == job["completions"] == hosts
  name, port = env["COORDINATOR"].split(":")
  assert name == "{0}-{1}-0-0.{0}".format(
    jobset["metadata"]["name"], replicated["name"]
  )
  assert container()["ports"] == [{"containerPort": int(port)}]
  selector = job["template"]["spec"]["nodeSelector"]
  sides = selector["cloud.google.com/gke-tpu-topology"].split("x")
  chips = container()["resources"]["limits"]["google.com/tpu"]
  assert np.prod([int(x) for x in sides]) == hosts * chips
  bounds = env["TPU_CHIPS_PER_PROCESS_BOUNDS"].split(",")
  assert np.prod([int(x) for x in bounds]) == chips


def sweep(tmp_path, *flags):
  return subprocess.run(
    [
      sys.executable,
      "launch/sweep.py",
      "--bucket=gs://b",
      f"--out={tmp_path}",
      *flags,
    ],
    capture_output=True,
    text=True,
  )


def test_a_sweep_writes_a_job_for_every_config_and_shape(tmp_path):
  said = sweep(
    tmp_path,
    "--configs",
    "configs/paper.py",
    "configs/levels.py",
    "--shapes",
    "",
    "student.widths=8,16;data.image_size=64",
  )
  *launches, merge = said.stdout.splitlines()
  jobs = {x.name: yaml.safe_load(x.read_text()) for x in tmp_path.iterdir()}
  assert len(launches) == len(jobs) == 4
  for line in launches:
    assert pathlib.Path(line.split()[-1]).name in jobs
  for job in jobs.values():
    assert job["envs"]["WORKDIR"] in merge.split()
    assert job["run"] == load("tpu.yaml")["run"]
  shaped = jobs["levels-student-widths-8-16-data-image-size-64.yaml"]["envs"]
  assert shaped["CONFIG"] == "configs/levels.py"
  assert shaped["FLAGS"] == (
    "--config.engine.dtype=bfloat16 "
    "--config.student.widths=8,16 --config.data.image_size=64"
  )


def test_a_sweep_refuses_two_jobs_with_one_workdir(tmp_path):
  said = sweep(tmp_path, "--configs", "configs/paper.py", "configs/paper.py")
  assert said.returncode == 2 and "another job" in said.stderr


# What follows runs the files for real, a folder in the bucket's place.

SETTINGS = started.SMALL | {
  "grid.pathway": "L",
  "grid.loss": "KLD",
  "engine.checkpoint_epochs": 1,
}


def flags(cache, **more):
  """As the job reads them, in one word."""
  given = SETTINGS | {"data.cache_dir": cache} | more
  return " ".join(started.flags(given))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture
def house(tmp_path):
  """A checkout to run in."""
  house = tmp_path / "house"
  house.mkdir()
  for name in ("kdjax", "configs", "launch"):
    shutil.copytree(name, house / name)
  return house


def environment(tmp_path, cache, **more):
  return (
    started.environment(
      PYTHONPATH=os.getcwd(),
      BIN=str(pathlib.Path(sys.executable).parent),
      CONFIG="configs/paper.py:tiny",
      WORKDIR=str(tmp_path / "run"),
      FLAGS=flags(cache),
    )
    | more
  )


def start(script, house, env):
  return started.Process(["bash", "-c", script], cwd=house, env=env)


def await_training(process, workdir):
  begun = lambda: list(workdir.glob("checkpoints/teacher/*/[0-9]*"))
  assert process.wait_for(begun), process.err


def write_images(folder):
  rng = np.random.default_rng(0)
  for part in ("images", "masks"):
    (folder / part).mkdir(parents=True)
  for i in range(24):
    mask = np.zeros((32, 32), np.uint8)
    mask[8 : 20 + i % 5, 6:24] = 255
    grey = rng.integers(0, 100, mask.shape) + mask // 2
    Image.fromarray(grey.astype(np.uint8)).save(folder / f"images/c{i}.png")
    Image.fromarray(mask).save(folder / f"masks/c{i}.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tpu.yaml", "gpu.yaml"])
def test_a_host_s_job_fetches_trains_and_reports_though_it_is_killed(
  name, house, cache, tmp_path
):
  write_images(tmp_path / "bucket")
  env = environment(
    tmp_path,
    cache,
    DATA=str(tmp_path / "bucket"),
    REPORT=str(tmp_path / "report"),
  )
  first = start(load(name)["run"], house, env)
  await_training(first, tmp_path / "run")
  first.stop()
  assert not (tmp_path / "report").exists()
  assert "| L_KLD_WAug " in start(load(name)["run"], house, env).finish()
  assert (tmp_path / "report/table.csv").exists()
  assert '"name": "data"' in (tmp_path / "run/data.json").read_text()


@pytest.mark.slow
def test_a_slice_s_hosts_share_the_grid_though_all_are_killed(
  house, cache, tmp_path
):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  run = load("tpu_slice.yaml")["run"].replace("8476", str(port))
  hosts = [
    environment(
      tmp_path,
      cache,
      FLAGS=flags(cache, folds="0,1"),
      REPORT=str(tmp_path / "report"),
      SKYPILOT_NODE_IPS="127.0.0.1\n127.0.0.1",
      SKYPILOT_NODE_RANK=str(i),
    )
    for i in (0, 1)
  ]
  killed = [start(run, house, env) for env in hosts]
  await_training(killed[0], tmp_path / "run")
  for process in killed:
    process.stop()
  first, second = [start(run, house, env) for env in hosts]
  assert "| L_KLD_WAug " in first.finish() and second.finish() == ""
  assert (tmp_path / "report/table.csv").exists()


@pytest.mark.slow
def test_a_pod_saves_at_the_notice_of_its_end_and_the_next_goes_on(
  house, cache, tmp_path
):
  *shell, script = container()["command"]
  assert shell == ["sh", "-c"]
  install = re.findall("sh launch/install.sh .*\n", script)
  for old, new in (
    ("git clone REPOSITORY kdjax", f"cp -r {house} kdjax"),
    ("git checkout --quiet REF", ":"),
    (install[0], ""),
  ):
    assert old in script
    script = script.replace(old, new)
  env = environment(tmp_path, cache, JOB_COMPLETION_INDEX="0", PROCESSES="1")
  pods = [tmp_path / "pod0", tmp_path / "pod1"]
  for pod in pods:
    pod.mkdir()
  first = start(f"exec sh -c '{script}'", pods[0], env)
  await_training(first, tmp_path / "run")
  # To the shell, as a kubelet does.
  assert first.stop(signal.SIGTERM) == 143 and "nothing is lost" in first.err
  second = start(f"exec sh -c '{script}'", pods[1], env)
  assert "| L_KLD_WAug " in second.finish()


GCLOUD = """#!/bin/bash
# A cloud that is this machine: it takes the first slice away.
echo "$*" >> "$CLOUD/calls"
case "$*" in
  *"queued-resources describe"*) cat "$CLOUD/state" 2>/dev/null ;;
  *"queued-resources create"*) echo ACTIVE > "$CLOUD/state" ;;
  *"queued-resources delete"*) rm "$CLOUD/state" ;;
  *"tpu-vm scp"*) mkdir -p "$CLOUD/vm" && cp "$5" "$CLOUD/vm" || exit ;;
  *"tpu-vm ssh"*)
    cd "$CLOUD/vm" || exit
    bash -c "${*: -1}" & job=$!
    echo "$job" > "$CLOUD/job"
    wait "$job" && exit 0
    echo SUSPENDED > "$CLOUD/state"
    exit 255 ;;
  "storage cp"*) cp -r ${4} "$5" ;;
esac
"""


@pytest.mark.slow
def test_a_queued_resource_is_asked_for_again_and_goes_on(
  house, cache, tmp_path
):
  cloud, binaries = tmp_path / "cloud", tmp_path / "bin"
  cloud.mkdir()
  binaries.mkdir()
  (binaries / "gcloud").write_text(GCLOUD)
  (binaries / "gcloud").chmod(0o755)
  (house / "launch/install.sh").write_text("")
  git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
  for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
    subprocess.run([*git, *words], cwd=house, check=True)
  env = environment(
    tmp_path,
    cache,
    CLOUD=str(cloud),
    ZONE="z",
    WAIT="0.2",
    PATH=f"{binaries}:{os.environ['PATH']}",
    # A cluster of one, for what asks the environment.
    OMPI_MCA_orte_hnp_uri="4096.0;tcp://127.0.0.1:1",
    OMPI_COMM_WORLD_SIZE="1",
    OMPI_COMM_WORLD_RANK="0",
    OMPI_COMM_WORLD_LOCAL_RANK="0",
  )
  process = start("exec bash launch/queued_resource.sh", house, env)
  await_training(process, tmp_path / "run")
  for line in pathlib.Path("/proc").glob("[0-9]*/environ"):
    with contextlib.suppress(OSError):
      mine = f"WORKDIR={tmp_path / 'run'}".encode() in line.read_bytes()
      words = (line.parent / "cmdline").read_bytes()
      if mine and b"kdjax\0train" in words:
        os.kill(int(line.parent.name), signal.SIGKILL)
  assert "| L_KLD_WAug " in process.finish()
  calls = (cloud / "calls").read_text()
  assert calls.count("queued-resources create") == 2
  assert calls.count("queued-resources delete") == 2
  assert not (cloud / "state").exists()
  assert (house / "results/kdjax/table.csv").exists()
