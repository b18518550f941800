"""From run folders to frames, figures and a report. Reads the store only; never imports torch.

frames -> statistics -> figures -> claims -> report; notebooks import them.

>>> from analysis.load import load, load_rows
>>> runs = load("out/quickstart")    # one row a run
>>> rows = load_rows("out/quickstart")    # one row a run and step
"""
