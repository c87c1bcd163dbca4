"""Language models on disk and in memory: names, files, loading, shapes."""
