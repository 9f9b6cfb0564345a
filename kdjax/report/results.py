"""Everything that a report says, each of it computed once."""

import dataclasses
import functools

from etils import epath
import ml_collections
import pandas as pd

from kdjax import readers
from kdjax import workdirs
from kdjax.distill import axes
from kdjax.distill import spaces
from kdjax.distill import trials
from kdjax.evaluate import statistics
from kdjax.report import answer
from kdjax.report import claims
from kdjax.report import comparisons
from kdjax.report import factors
from kdjax.report import footnotes
from kdjax.report import markdown
from kdjax.report import paired
from kdjax.report import regional
from kdjax.report import tables
from kdjax.report import verdicts


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """A workdir's numbers; made by `gather.results`.

  Attributes:
    workdir: where they come from.
    config: what was asked.
    arms: `trials.Arm`s of the grid.
    per_case: frame of `readers.per_case` without diverged trials.
    history: frame of `readers.history`.
    diverged: trials left out, a frame of model, fold and seed.
    models: rows of the table in order: Teacher, Students, arms.
    efficiency: frame by model with columns `workdirs.COSTS`.
    margin: of equivalence, in Dice.
    ratio: test over training cases of repeated hold-outs, else None.
    regions: names of what masks show, where they show several; else empty.
  """

  workdir: epath.Path
  config: ml_collections.ConfigDict
  arms: tuple
  per_case: pd.DataFrame
  history: pd.DataFrame
  diverged: pd.DataFrame
  models: tuple[str, ...]
  efficiency: pd.DataFrame
  margin: float
  ratio: float | None
  regions: tuple[str, ...]

  @property
  def references(self):
    """Arm to its Student."""
    return {arm.name: arm.reference for arm in self.arms}

  @property
  def tuned(self):
    """Whether a search gave arms their numbers."""
    return any(arm.tuned for arm in self.arms)

  @property
  def ranges(self):
    """Axis to the ends of the range that a search drew it from."""
    return spaces.ranges(self.config.search) if self.tuned else {}

  @property
  def taught(self):
    """Arm that learns from the trained teacher to its Student.

    Where some are tuned, those alone: they and their Student were given as
    much, while what an untuned arm gains may be its authors' luck.
    """
    tuned = {arm.name for arm in self.arms if arm.tuned}
    found = {x: self.references[x] for x in self.distilled}
    return {x: y for x, y in found.items() if x in tuned} or found

  @property
  def students(self):
    """Models that distil nothing: each is the reference of some arms."""
    return [x for x in self.models if x in self.references.values()]

  @property
  def distilled(self):
    """Arms that learn from the trained teacher and have results."""
    tested = set(self.per_case["model"])
    return [
      arm.name
      for arm in self.arms
      if arm.objective and not arm.control and arm.name in tested
    ]

  @property
  def smaller_teachers(self):
    """Teachers made smaller, as arms."""
    return trials.make_compressed(self.config)

  @property
  def compressed(self):
    """Names of Teachers made smaller that have results."""
    tested = set(self.per_case["model"])
    return [arm.name for arm in self.smaller_teachers if arm.name in tested]

  def ways(self, model):
    """The axes, by name, that made a model smaller; () where none did."""
    every = {arm.name: arm for arm in (*self.arms, *self.smaller_teachers)}
    return trials.smaller(every[model]) if model in every else ()

  @property
  def controls(self):
    """Control with results to the arm it stands beside, or to None."""
    tested = set(self.per_case["model"])
    found = trials.controls(self.arms)
    return {name: arm for name, arm in found.items() if name in tested}

  @functools.cached_property
  def table(self):
    """Frame of `tables.COLUMNS`, and the published where asked for."""
    return tables.summarize(self)

  @functools.cached_property
  def by_region(self):
    """Frame of `regional.COLUMNS`; empty where masks show one region."""
    return regional.make(self)

  @functools.cached_property
  def notes(self):
    """What the table's numbers are and what they support: sentences."""
    return footnotes.make(self)

  @functools.cached_property
  def text(self):
    """Table, answer, claims and notes in Markdown."""
    return markdown.table(self, self.table, self.notes)

  @functools.cached_property
  def paired(self):
    """All models on the same cases; its `scope` is what verdicts speak of."""
    return paired.make(self.per_case, self.margin, self.ratio)

  @property
  def scores(self):
    """Dice by unit and model."""
    return self.paired.units

  @functools.cached_property
  def comparisons(self):
    """Frame of `comparisons.COLUMNS`."""
    controls = self.controls
    pairs = comparisons.pairs(
      self.models, self.references, controls, self.compressed
    )
    return comparisons.make(self.paired, pairs, controls, self.compressed)

  @functools.cached_property
  def levels(self):
    """What each arm is made of; see `factors.of_arms`."""
    return factors.of_arms(self.arms)

  @property
  def questions(self):
    """What the grid asks: a phrase for each axis that its arms vary."""
    taught = [arm for arm in self.arms if arm.objective]
    return [
      axis.question
      for axis in axes.AXES
      if len({arm.word(axis) for arm in taught} - {""}) > 1
    ]

  @functools.cached_property
  def contrasts(self):
    """Frame of `factors.CONTRASTS`."""
    return factors.contrasts(self.paired, self.levels)

  @functools.cached_property
  def terms(self):
    """Frame of `factors.TERMS`."""
    return factors.mixed_model(self.per_case, self.levels)

  @functools.cached_property
  def lift(self):
    """The mean of the distilled arms against their Students, or None."""
    return claims.lift(self.paired, self.taught)

  @functools.cached_property
  def claims(self):
    """Frame of `claims.COLUMNS`."""
    return claims.make(self)

  @functools.cached_property
  def answer(self):
    """Three sentences."""
    return answer.make(self)

  @functools.cached_property
  def data(self):
    """What the data are, or an empty dict.

    Raises:
      UserError: it is damaged.
    """
    return self._read(workdirs.DATA, readers.data)

  @functools.cached_property
  def pairs(self):
    """What each pair of levels compares; {} where it is not known.

    Raises:
      UserError: it is damaged.
    """
    return self._read(workdirs.PAIRS, readers.pairs)

  @functools.cached_property
  def teachers(self):
    """Where teachers were taken over from, and their digests; or {}.

    Raises:
      UserError: it is damaged.
    """
    return self._read(workdirs.TEACHERS, readers.teachers)

  @functools.cached_property
  def search(self):
    """Frame of `readers.search`; empty where nothing was searched.

    Raises:
      UserError: it is damaged.
    """
    if workdirs.has(self.workdir, workdirs.SEARCH):
      return readers.search(self.workdir)
    return pd.DataFrame(columns=workdirs.COLUMNS[workdirs.SEARCH])

  def _read(self, name, reader):
    """What `reader` makes of a file that may be missing; {} where it is."""
    there = workdirs.has(self.workdir, name)
    return reader(self.workdir) if there else {}

  def comparison(self, model, reference):
    """The row that compares the two, as a dict, or None."""
    frame = self.comparisons
    keep = (frame["model"] == model) & (frame["reference"] == reference)
    found = frame[keep].to_dict("records")
    return found[0] if found else None

  def versus_student(self, arm):
    """The row of an arm or a control against its Student, a dict, or None."""
    found = [self.comparison(arm, student) for student in self.students]
    return next(filter(None, found), None)

  def arm_rows(self):
    """The comparisons of distilled arms with their Students, as dicts."""
    frame = self.comparisons
    keep = frame["reference"].isin(self.students)
    keep &= ~frame["model"].isin(self.controls)
    return frame[keep].to_dict("records")

  def control_rows(self):
    """The comparisons of distilled arms with their controls, as dicts."""
    frame = self.comparisons
    return frame[frame["reference"].isin(self.controls)].to_dict("records")

  def teacher_rows(self):
    """The comparisons of distilled arms with Teacher, as dicts."""
    frame = self.comparisons
    keep = (frame["reference"] == "Teacher") & frame["model"].isin(
      self.distilled
    )
    return frame[keep].to_dict("records")

  def winners(self):
    """Arms shown to be better than their Student after Holm's correction."""
    return [x["model"] for x in self.arm_rows() if verdicts.shown(x) > 0]

  def equals(self):
    """Arms shown to be equivalent to Teacher, Holm-corrected over the arms."""
    found = self.teacher_rows()
    corrected = statistics.holm([x["equivalent_p"] for x in found])
    return [
      row["model"]
      for row, p in zip(found, corrected, strict=True)
      if verdicts.equal({**row, "equivalent_p": p}, self.margin)
    ]
