"""The training of one run: the loop, what it trains, what watches its outcome, and what records its rows."""
