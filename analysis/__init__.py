"""From run folders to frames, figures and a report. Reads the store only; never imports torch.

    import analysis
    runs = analysis.load("out/quickstart")          # one row a run
    rows = analysis.load_rows("out/quickstart")     # one row a run and step

Figures are in `analysis.phase`, the page in `analysis.report`; both import matplotlib only when they are imported.
"""

from analysis.load import DamagedRuns, load, load_rows, varying

__all__ = ["DamagedRuns", "load", "load_rows", "varying"]
