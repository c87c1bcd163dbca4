"""Complete runs, one TOML file each, and how the built-in model was made."""
