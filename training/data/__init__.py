"""Dataset readers, splits and samplers for training."""
