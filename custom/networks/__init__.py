"""Networks that MONAI lacks, and modifications of any network."""

from .checkpointing import checkpoint_activations
from .ensemble import Ensemble, build_ensemble
from .nnunet import PlainConvUNet, ResidualEncoderUNet
from .normalization import set_batch_norm_momentum
from .onnx_network import OnnxNetwork
from .space_to_depth import SpaceToDepthSegResNetDS
from .start_from import start_from
from .unetplusplus import FlexibleUNetPlusPlus
