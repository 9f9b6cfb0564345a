"""Whether an objective says anything, told from shapes before any compiling."""

from kdjax.distill import losses


def objection(objective, student, teacher, batch_size, beyond_reach=False):
  """Why `objective` would teach nothing between two maps, or None.

  Args:
    objective: `trials.Objective`.
    student: shape `(h, w, C)` of the student's map, or of its logits.
    teacher: the same of the teacher's.
    batch_size: cases that a step compares with one another.
    beyond_reach: whether the teacher's map is negative in places, where the
      regressor's last activation is not.
  """
  loss = losses.LOSSES[objective.loss]
  if objective.pathway not in loss.pathways:
    return f"{loss.because}: choose pathway {' or '.join(loss.pathways)}"
  if ("head", "head") in [pair[:2] for pair in objective.pairs]:
    return "what the heads return are the logits: choose pathway L"
  height, width = (min(student[i], teacher[i]) for i in (0, 1))
  positions, channels = height * width, teacher[2]
  if objective.pathway == "H" and not loss.relational:
    channels = positions  # One distribution over all of them.
  if loss.over == "channels" and channels < 2:
    return "a softmax over one number is 1, whatever the number"
  if loss.few and channels < 3:
    return f"{loss.few}: it needs three classes, which data.regions names"
  if loss.over == "positions" and positions < 2:
    return "the maps have one position alone: choose finer levels"
  if loss.over == "cases" and batch_size < 2:
    return "it compares the cases of a batch: choose a batch size above 1"
  if beyond_reach and objective.pathway == "HReg" and loss.distance:
    return (
      "the teacher's map is negative in places, which a regressor that ends "
      "in a ReLU cannot reach: set regressor.activation=linear, or choose "
      "another level"
    )
  return None
