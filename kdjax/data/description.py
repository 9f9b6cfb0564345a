"""What `kdjax data` prints: a data set and its folds, as aligned text."""

import collections

import numpy as np


def make(dataset, folds):
  """The text; `folds` as from `splits.make_folds`."""
  sizes = np.array([mask.shape for mask in dataset.full_masks])  # [N, 2]
  (low_h, low_w), (high_h, high_w) = sizes.min(axis=0), sizes.max(axis=0)
  parts = {  # Of each image, by region, [N].
    name: np.array([np.mean(mask == i) for mask in dataset.full_masks])
    for i, name in enumerate(dataset.regions, start=1)
  }
  lesion = sum(parts.values())
  empty = [
    label
    for label, fraction in zip(dataset.labels, lesion, strict=True)
    if not fraction
  ]
  groups = collections.Counter(dataset.groups)
  facts = [
    ("data set", f"{dataset.name} {dataset.version}"),
    ("fingerprint", dataset.fingerprint[:12]),
    ("cases", _count(dataset.labels)),
    ("empty masks", _count(empty)),
    ("groups", f"{len(groups)}, the largest of {max(groups.values())} cases"),
    ("size", f"width {low_w} to {high_w}, height {low_h} to {high_h}"),
    *([("channels", "3, in colours")] if dataset.images.ndim == 4 else []),
    *_describe_spacings(dataset),
    *_describe_regions(parts),
    *(("note", note) for note in dataset.notes),
  ]
  labels = sorted(set(dataset.labels))
  median = f"median {' + '.join(dataset.regions)}"
  rows = [("fold", "part", "cases", "groups", *labels, median)]
  for number, fold in enumerate(folds):
    for part, indices in vars(fold).items():
      here = collections.Counter(dataset.labels[i] for i in indices)
      rows.append(
        (
          str(number),
          part,
          str(len(indices)),
          str(len({dataset.groups[i] for i in indices})),
          *(str(here[label]) for label in labels),
          f"{np.median(lesion[indices]):.2%}",
        )
      )
  return "\n".join([*_align(facts), "", *_align(rows)])


def _describe_regions(parts):
  """A row for each region: how much of the images that show it."""
  several = len(parts) > 1
  found = []
  for name, part in parts.items():
    # Of several, most images lack some.
    known = part[part > 0] if several and part.any() else part
    quartiles = [f"{x:.2%}" for x in np.quantile(known, (0.25, 0.5, 0.75))]
    said = f"quartiles {', '.join(quartiles)} of the image"
    where = f"in {np.count_nonzero(part)} cases, " if several else ""
    found.append((name, where + said))
  return found


def _describe_spacings(dataset):
  """A row on the pixels' spacing, or none where nothing is known of it."""
  if not dataset.spacings:
    return []
  values = [x for pair in dataset.spacings.values() for x in pair]
  said = f"{min(values):g} to {max(values):g} mm per pixel"
  known = f"{len(dataset.spacings)} of {len(dataset.cases)} cases"
  return [("spacing", f"{said}, {known}")]


def _count(labels):
  """Labels to "3: 1 benign, 2 malignant"."""
  counts = sorted(collections.Counter(labels).items())
  parts = ", ".join(f"{count} {label}" for label, count in counts)
  return f"{len(labels)}: {parts}" if parts else "0"


def _align(rows):
  """Rows of strings to lines whose columns begin at the same place."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
