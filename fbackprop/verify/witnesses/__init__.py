"""The witnesses of a gradient (rule, autodiff, differences), and the verdict on them."""
