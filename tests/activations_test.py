"""What is said about activations on a mesh, on the two devices of the tests."""

from flamingo import sharding
from flamingo.model.vision.nfnet import NFNet
import jax
import numpy as np

ENCODER = NFNet(
    depths=(1, 1, 1, 1), widths=(8, 16, 16, 16), stem=(4, 4, 4, 8),
    group_size=4)


def test_each_device_encodes_its_own_pictures_and_asks_for_no_others():
  pictures = np.random.default_rng(2).integers(
      256, size=(8, 33, 33, 3), dtype=np.uint8)
  weights = ENCODER.init(jax.random.key(0), pictures[:1])
  weights = jax.tree.map(lambda x: x + 0.1, weights)  # nor is `skip_gain` 0
  mesh = sharding.make_mesh(data=2)
  on = lambda mesh: jax.jit(lambda weights, x: sharding.Activations(
      mesh).encoded(ENCODER.apply, weights, x))
  text = on(mesh).lower(weights, sharding.Activations(mesh).pictures(
      pictures)).compile().as_text()
  assert text.count('convolution(') > 10 and 'all-gather(' not in text
  # Seven pictures, which two devices can't share evenly.
  one = np.asarray(on(None)(weights, pictures[:7]))
  two = np.asarray(on(mesh)(weights, pictures[:7]))
  assert one.shape == two.shape and abs(one).max() > 0.1
  np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
