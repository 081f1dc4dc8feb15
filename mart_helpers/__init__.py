"""What SQL cannot say for the notebooks: sessions, loading, publishing, checks, reports."""
