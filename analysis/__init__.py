"""From run folders to frames, figures and a report. Reads the store only; never imports torch.

    import analysis
    runs = analysis.load("out/quickstart")          # one row a run
    rows = analysis.load_rows("out/quickstart")     # one row a run and step

Numbers are in `survival`, `dose`, `contrasts`, `sensitivity`, `growth` and `early_warning`: each is an
`estimates.Estimate` with its interval and n, or a table of such. Figures are in `phase`, `steps`, `curves` and `plots`,
the page in `report`; only these import matplotlib.
"""

from analysis.load import DamagedRuns, load, load_rows, strangers, varying

__all__ = ["DamagedRuns", "load", "load_rows", "strangers", "varying"]
