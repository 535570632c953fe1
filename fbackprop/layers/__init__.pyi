from .convolution import ConvParams as ConvParams
from .convolution import conv1d as conv1d
from .recurrence import RecurrentParams as RecurrentParams
from .recurrence import recurrent as recurrent
