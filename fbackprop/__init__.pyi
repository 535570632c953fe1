from fbackprop.activations import activation as activation
from fbackprop.activations import gelu as gelu
from fbackprop.activations import identity as identity
from fbackprop.activations import relu as relu
from fbackprop.activations import sigmoid as sigmoid
from fbackprop.activations import tanh as tanh
from fbackprop.checks import DtypeError as DtypeError
from fbackprop.checks import ShapeError as ShapeError
from fbackprop.checks import StructureError as StructureError
from fbackprop.combinators import serial as serial
from fbackprop.linear import DenseParams as DenseParams
from fbackprop.linear import dense as dense
from fbackprop.losses import combine as combine
from fbackprop.losses import hinge as hinge
from fbackprop.losses import huber as huber
from fbackprop.losses import huber_with as huber_with
from fbackprop.losses import log_cosh as log_cosh
from fbackprop.losses import poisson_nll as poisson_nll
from fbackprop.losses import sigmoid_cross_entropy as sigmoid_cross_entropy
from fbackprop.losses import softmax_cross_entropy as softmax_cross_entropy
from fbackprop.losses import softmax_cross_entropy_with as softmax_cross_entropy_with
from fbackprop.losses import squared_error as squared_error
from fbackprop.networks import mlp as mlp
from fbackprop.transforms import as_custom_vjp as as_custom_vjp
from fbackprop.transforms import pullback as pullback
from fbackprop.transforms import residual_bytes as residual_bytes
from fbackprop.transforms import value_and_grad as value_and_grad
from fbackprop.types import Gate as Gate
from fbackprop.types import Layer as Layer
from fbackprop.types import Loss as Loss

from . import gates as gates
from . import train as train
from . import verify as verify

__version__: str
