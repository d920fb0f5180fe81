"""Celery workers: the only room where the service and the model meet. Plain values pass between them."""
