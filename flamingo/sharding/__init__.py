"""Where arrays live: a mesh, what is split over it, and by which rule."""

from flamingo.sharding.activations import Activations
from flamingo.sharding.activations import ONE_DEVICE
from flamingo.sharding.mesh import make_mesh
from flamingo.sharding.mesh import over_batch
from flamingo.sharding.mesh import over_largest_axis
from flamingo.sharding.mesh import place
from flamingo.sharding.mesh import put_batch
from flamingo.sharding.mesh import put_whole_batch
from flamingo.sharding.mesh import replicated
from flamingo.sharding.mesh import row_shards
from flamingo.sharding.mesh import rows_here
from flamingo.sharding.rules import RULES
from flamingo.sharding.rules import shardings
from flamingo.sharding.rules import spec_of
from flamingo.sharding.rules import spread
from flamingo.sharding.rules import state_shardings
from flamingo.sharding.table import table

__all__ = [
    'Activations', 'make_mesh', 'ONE_DEVICE', 'over_batch',
    'over_largest_axis', 'place', 'put_batch', 'put_whole_batch', 'replicated',
    'row_shards', 'rows_here', 'RULES', 'shardings', 'spec_of', 'spread',
    'state_shardings', 'table']
