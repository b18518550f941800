"""Evaluation by the paper's protocols, and its figures beside ours. Importing this package does not import torch."""
