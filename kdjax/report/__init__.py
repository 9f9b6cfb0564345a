"""Tables and figures, rebuilt from a workdir's files alone."""
