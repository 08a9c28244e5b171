"""What a cheating provider can find in the file it was sent, without a language model: searches that rank its rows."""
