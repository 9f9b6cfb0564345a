"""Linen modules from images to logits; they know nothing of distillation."""

from kdjax.models.answers import Answers
from kdjax.models.decoders import EncoderUNet
from kdjax.models.decoders import UNetPlusPlus
from kdjax.models.unet import UNet

# A config names a model by one of these and gives its attributes.
MODELS = {
  "UNet": UNet,
  "EncoderUNet": EncoderUNet,
  "UNetPlusPlus": UNetPlusPlus,
  "Answers": Answers,
}
