"""What runs things: sampler, training loop, checkpoints, tiles, prediction, the writer."""
