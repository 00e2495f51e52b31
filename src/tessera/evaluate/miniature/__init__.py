"""The miniature world's judge."""
