"""After a run: a trained network as one file, and what it says of images."""
