"""Files as people keep them, whatever is in the rows: JSON lines, arrays, compressed files, CSV, Parquet, shards."""
