"""From files on disk or in a bucket to batches."""
