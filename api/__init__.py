"""The REST API. Never imports torch, not even indirectly."""

import gc

# Its modules, models and routes live as long as the process. To look through them for garbage at every 700 new objects
# takes an eighth of its start; requests make little that reference counts do not free.
gc.set_threshold(50_000, 20, 20)
