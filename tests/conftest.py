"""What every test shares: CPU only, exact float32 products, eight virtual devices for meshes."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

# Tests of one device place nothing on the others, so that they cost nothing.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "float32")
