"""REST API of the service. It never imports torch, not even indirectly."""

import gc

# Modules, models and routes live as long as the process. With Python's default, the garbage collector would scan them
# after every 700 new objects, which takes an eighth of the start-up time. Requests create few reference cycles, so
# collecting garbage less often is enough.
gc.set_threshold(50_000, 20, 20)
