"""Speed: of the layers, of a step of training, of the training loop."""
