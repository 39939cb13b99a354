"""How fast a training step is here, and where its time goes."""
