"""Celery workers: they run the jobs of the service (`core.service`) with the model (`core.ml`). The service and the
model do not import each other; workers pass plain values between them."""
