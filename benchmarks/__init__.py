"""Speed, measured against something else in the same run. Each module is a program; see README.md."""
