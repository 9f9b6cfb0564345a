"""Which kinds of device JAX looks for when a command starts."""

import importlib.metadata
import importlib.util
import os
import pathlib

_PLATFORMS = "JAX_PLATFORMS"
_GOOGLE = "0x1ae0"  # Vendor of a TPU on the PCI bus.


def settle(bus="/sys/bus/pci/devices"):
  """Has JAX leave libtpu alone where there is no TPU; before JAX is imported.

  libtpu is installed for its compiler (`kdjax plan`). JAX starts it in every
  process all the same, which prints five lines of complaints without a TPU.

  Does nothing where JAX_PLATFORMS is set, or JAX has another plugin to look
  for, such as that of GPUs.

  Args:
    bus: folder with one for each PCI device, which has a file `vendor`.
  """
  if (
    _PLATFORMS in os.environ
    or importlib.util.find_spec("libtpu") is None
    or importlib.metadata.entry_points(group="jax_plugins")
  ):
    return
  vendors = pathlib.Path(bus).glob("*/vendor")
  if not any(path.read_text().strip() == _GOOGLE for path in vendors):
    os.environ[_PLATFORMS] = "cpu"
