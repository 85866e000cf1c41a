"""Measurements: `python -m jobs.bench embed --documents 512`, `python -m jobs.bench ingest corpus/*.jsonl`,
`python -m jobs.bench simulate 1M --check`.

A page for each: embed.py and ingest.py beside a named alternative; simulate.py over a corpus of any size, which
drawn.py draws, meter.py measures and reference.py computes again; raters.py beside what people said, of the texts in
labelled.py.
"""
