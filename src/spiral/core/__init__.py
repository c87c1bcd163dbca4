"""The foundation of all rooms: records, policies' protocol, settings, files, storage, seeds, metrics, plugins."""
