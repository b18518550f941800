"""Numbers with their uncertainty, from frames. No figure is made here."""
