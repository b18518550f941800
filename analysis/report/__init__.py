"""Pages and pictures for people: the report on an output folder, the findings, the executed notebooks."""
