"""Settings that every test shares."""

import torch

# Test processes run side by side, and sums are only reproducible for a fixed number of threads.
torch.set_num_threads(1)
