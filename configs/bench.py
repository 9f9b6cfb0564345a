"""What does training the whole grid in one program cost, and what does it save?

The twelve arms of `paper` at 64 x 64 in batches of 16, a 31 M U-Net as teacher
and the paper's student of 0.82 M. `kdjax bench` times it against one student
alone, the same trials in turn, and the teacher's answers asked for once; and
against PyTorch where that is installed. Size "paper" has the paper's teacher, a
U-Net++ on a ResNet-152 of 83.6 M; size "lite0" that of `busi_cpu`, a U-Net on
an EfficientNet-Lite0. A teacher's own step and its answer are timed too.

Run:

  kdjax bench --config configs/bench.py --peer torch --workdir runs/bench
  kdjax bench --config configs/bench.py:lite0 --peer torch \\
    --modes teacher,answer --workdir runs/bench_lite0
  kdjax bench --config configs/bench.py:paper --peer torch \\
    --workdir runs/bench_paper

The last keeps 25 large programs, whose code takes more memory maps than Linux
gives a process; before it: sysctl -w vm.max_map_count=262144.
"""

from configs import paper


def get_config(size="full"):
  """Returns the study; sizes have other teachers, "tiny" takes seconds."""
  config = paper.get_config()
  config.published = False
  config.data.image_size = 64
  config.teacher_training.batch_size = 16
  config.student_training.batch_size = 16
  if size == "lite0":
    config.teacher = dict(
      name="EncoderUNet",
      encoder="efficientnet-lite0",
      num_classes=2,
      in_channels=3,
    )
    config.grid.pair = (("encoder4", "decoder3"),)  # Nowhere negative.
  elif size != "paper":
    config.teacher = dict(
      name="UNet",
      widths=(64, 128, 256, 512, 1024),
      decoder_widths=(512, 256, 128, 64),
      num_classes=2,
      in_channels=3,
    )
  return paper.shrink(config) if size == "tiny" else config
