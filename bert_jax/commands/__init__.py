"""The commands: flags, calls, printing. Nothing else lives here."""
