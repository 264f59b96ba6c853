"""What a fitted model does, seen from outside: importances, models side by side, and plots."""
