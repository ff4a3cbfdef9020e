"""What a process owes the others: locks, signals, its parent."""
