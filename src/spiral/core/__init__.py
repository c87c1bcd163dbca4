"""What everything else stands on: records, settings, files, seeds, metrics."""
