"""Pages, tables and figures: reads every directory, writes only its own pages."""
