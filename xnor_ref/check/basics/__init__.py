"""What an exercise is, how a result is compared, how a case is drawn."""
