"""What every room stands on: tables, units, settings, errors and the home folder. It imports no other room."""
