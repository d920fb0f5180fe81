"""Fine-tunes: jobs that train an adapter on a data set."""
