"""Quantities: what one backward pass knows of every example, beside the gradient of their mean.

A network of `captured` layers returns the factors of its gradient, the pair of what entered a layer
and the cotangent of what left it, and these functions read from them what autodiff would need a
gradient for each example for. Names are imported when they are touched.
"""

from fbackprop.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
  "fbackprop.quantities",
  {
    "capturing": ("Affine", "Elementwise", "Linear", "Scaling", "captured"),
    "clipping": ("clipped_gradient",),
    "gradients": ("example_gradients", "gradient"),
    "kernels": ("cosine_similarities", "global_norm", "gram"),
    "moments": ("NoiseScale", "noise_scale", "second_moment", "variance"),
    "norms": ("example_sqnorms",),
    "order": ("layer_order",),
    "passes": ("compute",),
    "vitals": ("Health", "LayerHealth", "health"),
  },
)
