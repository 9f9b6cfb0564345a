"""A claim: what it compares, and the verdict that the numbers give."""

import dataclasses

from kdjax.report import paired
from kdjax.report import verdicts
from kdjax.report import words

ALPHA = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
  """Two things that a claim compares.

  Attributes:
    name: in a sentence.
    sides: of `paired`.
    row: of `paired.Paired.compare`.
    claimed: published difference, in Dice.
  """

  name: str
  sides: tuple
  row: dict
  claimed: float


@dataclasses.dataclass(frozen=True, eq=False)
class Claim:
  """What the paper says, and what of it is there to be tested.

  Attributes:
    text: the claim.
    pairs: of `Pair`, none where the run cannot test it.
    p: of the test that all pairs are as claimed; NaN if there is none.
    alike: whether it claims equality, else that the first is better.
    published: the paper's numbers, in words.
    lacks: what the run has not, in words.
    remark: what else the sentence has to say.
    holds: whether what is no matter of chance, such as bytes, is as claimed.
  """

  text: str
  pairs: tuple
  p: float
  alike: bool
  published: str
  lacks: str = ""
  remark: str = ""
  holds: bool = True


def of_models(results, model, reference, claimed=0.0):
  """The `Pair` of two models, or None."""
  row = results.comparison(model, reference)
  if row is None:
    return None
  sides = {model: 1.0}, {reference: 1.0}
  return Pair(f"{model} against {reference}", sides, row, claimed)


def decide(results, claim, p, tested):
  """Verdict, p, corrected p and sentence of a claim.

  Args:
    results: `results.Results`.
    claim: `Claim`.
    p: Holm-corrected, NaN where nothing was tested.
    tested: how many claims are.
  """
  if not claim.pairs:
    lacks = f"This run lacks {claim.lacks}. Published: {claim.published}."
    return verdicts.UNDECIDED, claim.p, p, lacks
  level = 1 - ALPHA / (tested * len(claim.pairs))
  wide = [results.paired.interval(x.sides, x.row, level) for x in claim.pairs]
  found = [x.row for x in claim.pairs]
  if not claim.holds:
    verdict = verdicts.NOT_SUPPORTED
  elif results.paired.scope != paired.METHODS:
    verdict = verdicts.UNDECIDED
  elif claim.alike:
    verdict = verdicts.comparable(found, p, wide, results.margin)
  else:
    claimed = [x.claimed for x in claim.pairs]
    verdict = verdicts.better(found, p, wide, claimed)
  parts = [
    f"{x.name} {words.difference(x.row)}{words.folds(x.row)}"
    + _remark(claim, x, interval, results.margin)
    for x, interval in zip(claim.pairs, wide, strict=True)
  ]
  text = "; ".join(parts)
  test = "equivalence" if claim.alike else "difference"
  within = f" within {100 * results.margin:g} points" if claim.alike else ""
  sentence = (
    f"{text[0].upper()}{text[1:]}. Test of {test}{within}, Holm-corrected over "
    f"{words.many(tested, 'claim')}: p {words.compared(p)}."
  )
  if results.paired.scope != paired.METHODS:
    sentence += f" These numbers speak of {results.paired.scope}."
  sentence += f" {claim.remark}." if claim.remark else ""
  return verdict, claim.p, p, f"{sentence} Published: {claim.published}."


def _remark(claim, pair, wide, margin):
  """What the numbers of a pair leave out, if anything."""
  if claim.alike:
    far = verdicts.apart(pair.row, wide, margin)
    return f", further apart than {100 * margin:g} points" if far else ""
  short = verdicts.falls_short(pair.row, wide, pair.claimed)
  less = f", less than the published {words.points(pair.claimed)}"
  return less if short else ""
