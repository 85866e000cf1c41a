"""From files to documents: which files there are, what is in their rows, and the text of a row.

files.py    which files there are, and what each is called
formats/    how a file is cut, read, read again at random, and looked at: one file for each format
render.py   the text of a row
tokens.py   how long a text is; cuts.py, where it may be cut so that its tokens add up
columns.py  a column of documents: where it is stored, and its type
joined.py   columns of a part's documents, from the tables of all steps
rows.py     any row at any time, for the trainer's side
"""
