"""Instruments that never change the training and work on any torch model."""
