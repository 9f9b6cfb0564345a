"""The model card of an exported network, in Markdown."""

import csv

from kdjax import readers
from kdjax import workdirs
from kdjax.deploy import trained
from kdjax.evaluate import intervals
from kdjax.models.quantised import NONE


def make(network, about, name, measured=None):
  """The card's text.

  Args:
    network: `trained.Trained`.
    about: its description, as in the JSON.
    name: of the exported file.
    measured: what `quantisation.make` measured, or None.
  """
  side = network.shape[0]
  kind = "RGB" if len(network.shape) == 3 else "grey"
  what = (
    "a teacher"
    if network.arm == trained.TEACHER
    else "a student"
    if network.arm.startswith("Student")
    else "a distilled student"
  )
  lines = [
    f"# {name}",
    "",
    "**Not a medical device.** A research network that outlines lesions in "
    "breast ultrasound; nothing it says may decide on a patient.",
    "",
    f"- Network: {what}, arm `{network.arm}` of its study, fold "
    f"{network.fold}, seed {network.seed}, {about['network']['name']}.",
    f"- In: {kind} images, 0 to 255, squeezed to {side} x {side}. Scaling and "
    "normalisation are inside the file, BatchNorm is in the convolutions.",
    *_out(network.regions),
    "- Its epoch was chosen on validation cases, with a "
    f"{network.validated}; test cases had no say in any choice.",
    f"- Config: sha256 {network.config_hash}.",
    "- Made with: "
    + ", ".join(
      f"{package} {version}"
      for package, version in {
        "kdjax": about["kdjax"],
        **about["versions"],
      }.items()
    )
    + ".",
    "",
    "## Data",
    "",
    *_data(network),
    "",
    "## Metrics",
    "",
    *_metrics(network),
  ]
  if measured:
    lines += [f"- {quantised(network, measured)}"]
  lines += [
    "",
    "## Limits",
    "",
    "- Trained and tested on simulated images: nothing is known of how it does "
    "on real ones."
    if _simulated(network)
    else "- Trained and tested on cases of one data set, all of them images "
    "that someone had chosen to annotate. On another scanner, probe, hospital "
    "or population it may fail without a sign.",
    "- It always answers, for an image without a lesion and for one that is no "
    "ultrasound too, and says nothing of how sure it is.",
    "- The metrics are those of networks trained like this one on other parts "
    "of the same data, or of this one on its own test cases; no reader and no "
    "outcome was studied.",
  ]
  return "\n".join(lines) + "\n"


def _out(regions):
  if len(regions) == 1:
    return [
      f"- Out: a margin per pixel, the logit of {regions[0]} minus that of "
      f"background; resized to the image's own size, {regions[0]} where it is "
      "above 0."
    ]
  return [
    f"- Out: of {', '.join(regions)} a margin per pixel each, its logit minus "
    "that of background; resized to the image's own size, the largest that is "
    "above 0 says what is there. Dice below is the mean over the regions that "
    "a case shows."
  ]


def quantised(network, measured):
  """What quantisation cost, in a sentence."""
  few = network.bits < NONE
  trained_in = f"as trained, in {network.bits} bits" if few else "in float32"
  ranges = "with the ranges of its training, else " if few else ""
  points = lambda x: f"{100 * x[0]:.2f} [{100 * x[1]:.2f}, {100 * x[2]:.2f}]"
  return (
    f"In 8 bits by onnxruntime, on the {measured['cases']} test cases of its "
    f"fold that hold a lesion: Dice {points(measured['int8'])} percent against "
    f"{points(measured['float'])} {trained_in}, a difference of "
    f"{points(measured['difference'])} "
    f"points (95 % intervals); {ranges}calibrated on training cases."
  )


def _data(network):
  if not workdirs.has(network.workdir, workdirs.DATA):
    return [f"- Unknown: the workdir has no {workdirs.DATA}."]
  record = readers.data(network.workdir)
  fold = record["folds"][network.fold]
  counts = {part: len(fold[part]) for part in ("train", "val", "test")}
  return [
    f"- {record['name']} {record['version']}, fingerprint "
    f"{record['fingerprint'][:12]}"
    + (": simulated images, no patients." if _simulated(network) else "."),
    f"- Trained on {counts['train']} cases, stopped on {counts['val']}, tested "
    f"on {counts['test']}; near-duplicates never on both sides.",
  ]


def _simulated(network):
  return network.config.data.name == "phantom"


def _metrics(network):
  lines = []
  found = [
    row
    for row in _rows(network.workdir / workdirs.REPORT / workdirs.TABLE)
    if row["model"] == network.arm
  ]
  for row in found:
    number = lambda name, row=row: 100 * float(row[name] or "nan")
    lines.append(
      f"- All trials of `{network.arm}` together, {row['cases']} cases: Dice "
      f"{number('dice_mean'):.2f} percent "
      f"[{number('dice_ci_low'):.2f}, {number('dice_ci_high'):.2f}], IoU "
      f"{number('iou_mean'):.2f}; {row['missed']} lesions missed, "
      f"{row['false_alarms']} false alarms."
    )
  own = [
    row
    for row in _rows(network.workdir / workdirs.PER_CASE)
    if (row["model"], row["fold"], row["seed"])
    == (network.arm, str(network.fold), str(network.seed))
  ]
  if own:
    dice = [float(row["dice"] or "nan") for row in own]
    low, high = intervals.of_mean(dice, [row["group"] for row in own])
    known = [x for x in dice if x == x]
    mean = sum(known) / len(known) if known else float("nan")
    lines.append(
      f"- This network on the {len(known)} cases of its own test set that "
      f"hold a lesion: Dice {100 * mean:.2f} percent "
      f"[{100 * low:.2f}, {100 * high:.2f}]."
    )
  if not lines:
    return ["- None: the workdir has no report; run kdjax report there first."]
  return [*lines, "- Intervals are 95 %, BCa bootstrap over groups of cases."]


def _rows(path):
  if not path.exists():
    return []
  return list(csv.DictReader(path.read_text().splitlines()))
