"""Datasets: in the device's memory, or streamed from a folder of image files. Importing this package is light."""
