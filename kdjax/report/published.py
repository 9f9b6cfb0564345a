"""The published numbers that the `paper` config's tables stand beside.

Behboodi, Brooks, Rivaz. "Optimizing knowledge distillation for efficient breast
ultrasound image segmentation: insights and performance enhancement."
Artificial Intelligence in Health 2(2), 2025,
https://doi.org/10.36922/aih.3509, CC BY 4.0.
"""

from typing import NamedTuple


class Row(NamedTuple):
  """A row of Table 4: Dice in percent over images, p of an unnamed test."""

  dice_mean: float
  dice_std: float
  p_teacher: float | None
  p_student: float | None


TABLE_4 = {
  "Teacher": Row(81.50, 18.40, None, 0.0048),
  "Student": Row(73.16, 23.78, 0.0048, None),
  "L_MSE": Row(77.75, 22.55, 0.1414, 0.0227),
  "L_MSE_WAug": Row(77.52, 17.61, 0.1565, 0.0948),
  "L_KLD": Row(78.00, 22.05, 0.0950, 0.0037),
  "L_KLD_WAug": Row(80.00, 18.86, 0.2075, 0.0012),
  "H_MSE": Row(77.50, 21.49, 0.0645, 0.0215),
  "H_MSE_WAug": Row(77.85, 20.06, 0.0341, 0.0125),
  "H_KLD": Row(79.00, 20.45, 0.1320, 0.0067),
  "H_KLD_WAug": Row(78.50, 19.83, 0.1417, 0.0316),
  "HReg_MSE": Row(78.06, 19.25, 0.0325, 0.0201),
  "HReg_MSE_WAug": Row(77.63, 19.97, 0.0402, 0.0269),
  "HReg_KLD": Row(79.00, 20.37, 0.2132, 0.0021),
  "HReg_KLD_WAug": Row(79.31, 19.33, 0.1247, 0.0068),
}


class Quoted(NamedTuple):
  """A row of Table 5: Dice in percent, parameters in millions."""

  dice: float
  parameters: float


# Other methods' numbers are quoted there, not measured there.
TABLE_5 = {
  "Liang": Quoted(84, 20.5),
  "Gao": Quoted(85, 2.34),
  "Lou": Quoted(90, 26.63),
  "Lee": Quoted(89, 7.7),
  "L_KLD_WAug": Quoted(80, 0.82),
}


def arms():
  """The twelve arms of Table 4, a dict as `TABLE_4`."""
  return {name: row for name, row in TABLE_4.items() if "_" in name}


def gain(arm):
  """Published difference of `arm` to Student, in Dice."""
  return (TABLE_4[arm].dice_mean - TABLE_4["Student"].dice_mean) / 100


def mean(word):
  """Published mean Dice, in percent, over the arms with `word` in their name.

  Words are what a name consists of: "H", "KLD", "WAug".
  """
  found = [
    row.dice_mean for name, row in arms().items() if word in name.split("_")
  ]
  return sum(found) / len(found)
