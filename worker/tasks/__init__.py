"""The tasks. A message is only a wake-up: a task claims the next row of its kind and works until none is left."""
