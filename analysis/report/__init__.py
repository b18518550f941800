"""Pages and pictures for people: the report on an output folder, the findings, the executed notebooks.

A report goes contents (what is read) -> tables and drawings -> page (plain words) -> templates/ (HTML and CSS).
"""
