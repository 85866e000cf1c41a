"""From files to documents: survey the files, ingest their rows, mark exact duplicates.

files.py    which files there are, and their cut into parts
read.py     a part's rows, one by one, whatever the format
render.py   the text of a row
tokens.py   how long a text is
ingest.py   rows to documents, bad rows to quarantine
dedup.py    which documents go on
rows.py     any row at any time, for the trainer's side
"""
