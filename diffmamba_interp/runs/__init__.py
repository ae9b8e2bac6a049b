"""What every run that writes a folder needs: errors as messages, one writer, processes, signals, snapshots, a log."""
