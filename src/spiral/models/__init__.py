"""What a language model is on disk and in memory: names, files, loading, shapes."""
