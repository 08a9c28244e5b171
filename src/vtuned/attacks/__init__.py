"""What a cheating provider would run. Everything here gets the training file at most, never the receipt."""
