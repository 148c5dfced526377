"""The step and the loop: loss, optimizer, samples, checkpoints."""
